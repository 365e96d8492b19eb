"""A classifier as an ordered list of named layers, from pixels to logits.

This package is the only place that knows architectures (``architectures.py``); freezing, unfreezing, gradient norms and
cost reports all use this list. The names follow the layer lists of the paper's authors (arXiv 2211.09359,
``get_layers`` in their code).

To add another backbone, write one function and register it::

    from ftsgd_plugin.layers import Entry, register_layer_list

    @register_layer_list('my_package.my_net.MyNet')  # or the class itself
    def _my_net(net):
        yield Entry('patch_embed', 'embed', 'stem_conv')
        for i in range(len(net.blocks)):
            yield Entry(f'blocks.{i}', 'block', f'blocks.{i}', block=i)
        yield Entry('post_norm', 'norm', 'norm')

The last strings are attribute paths inside the backbone, of modules or parameters. Everything in the model outside the
backbone is its head and needs no entry.
"""

from . import (  # noqa: F401  (register the known layer lists)
    architectures,
    mmpretrain_backbones,
    open_clip_towers,
    timm_networks,
    torchvision_networks,
    transformers_models,
)
from .adapters import has_adapters, without_adapters
from .api import Layer, keep_layer_list, layer_depths, list_layers, paper_parts, weight_norms
from .entry import ROLES, Entry
from .names import in_backbone, in_head, unwrap, unwrap_state_dict
from .register import register_layer_list

__all__ = [
    'ROLES',
    'Entry',
    'Layer',
    'has_adapters',
    'in_backbone',
    'in_head',
    'keep_layer_list',
    'layer_depths',
    'list_layers',
    'paper_parts',
    'register_layer_list',
    'unwrap',
    'unwrap_state_dict',
    'weight_norms',
    'without_adapters',
]
