"""Low-rank adapters around the linear layers of attention: MMPretrain's LoRA, for every backbone that has some."""

import re
from collections.abc import Mapping
from copy import deepcopy

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.models.peft.lora import LoRALinear, LoRAModel
from mmpretrain.registry import MODELS
from torch import nn

from ..layers import without_adapters
from ..layers.generic import image_shape, library_of
from ..layers.trace import trace
from ..utils.errors import UserError
from ..utils.names import type_name
from ..utils.patching import replaced

OPTIONS = {'rank': 8, 'alpha': 8, 'drop_rate': 0.0}
_ATTENTION = ('attn', 'attention', 'msa')  # in the names of attention modules
_BESIDE = re.compile(r'\d+|mlp|ffn')  # networks inside them: the position bias of Swin v2, the end of attention pooling


@MODELS.register_module()
class LoRABackbone(LoRAModel):
    """MMPretrain's ``LoRAModel`` around a backbone, with whole checkpoints.

    ``LoRAModel`` saves the adapters only and reads the pretrained weights each time it is built. A run that is resumed,
    evaluated or exported elsewhere would need the same file. Here the weights are loaded in ``init_weights``, as by any
    backbone, and a checkpoint holds all of them.

    Args:
        module (dict): Config of the backbone.
        rank (int): Rank of the adapters. Defaults to 8.
        alpha (int): The adapters' output is multiplied by ``alpha / rank``. Defaults to 8.
        drop_rate (float): Dropout before the adapters. Defaults to 0.
        targets (list[dict]): As in ``LoRAModel``. Default: all linear layers of attention.

    Raises:
        UserError: The backbone has no linear layer of attention, or one that cannot take an adapter.
    """

    def __init__(
        self, module: dict, rank: int = 8, alpha: int = 8, drop_rate: float = 0.0, targets: list[dict] | None = None
    ) -> None:
        BaseModule.__init__(self)
        self.module = MODELS.build(module)
        self.rank, self.alpha, self.drop_rate = rank, alpha, drop_rate
        self.targets = targets or [dict(type=name) for name in attention_targets(self.module)]
        self.applied = False
        with replaced(MMLogger.get_current_instance(), 'disabled', True):  # a line for every adapter
            self.apply_lora()
        if not self.applied:
            raise UserError(f'LoRABackbone: targets={targets!r} match no linear layer of {type(self.module).__name__}.')
        self._set_lora_trainable()

    def init_weights(self) -> None:
        """Initialise the backbone as it would be without adapters."""
        with without_adapters(self.module):
            self.module.init_weights()


def attention_targets(backbone: nn.Module) -> list[str]:
    """The endings of the names of all linear layers of attention, e.g. ``['attn.qkv', 'attn.proj']``.

    Args:
        backbone: The network, without adapters.

    Raises:
        UserError: There is none, or the network keeps its projections in one fused parameter, as open_clip's towers.
    """
    found = []
    for name, module in backbone.named_modules():
        parts = name.split('.')
        if isinstance(module, nn.MultiheadAttention):
            raise UserError(
                f'lora: {type(backbone).__name__} has torch.nn.MultiheadAttention ({name}), whose projections are one '
                "parameter and take no adapter; choose a ViT of timm, transformers or MMPretrain, or 'bitfit-norm'."
            )
        last = max((i for i, part in enumerate(parts) if any(word in part for word in _ATTENTION)), default=None)
        if type(module) is nn.Linear and last is not None and not any(map(_BESIDE.fullmatch, parts[last:])):
            found.append('.'.join(parts[last:]))
    if not found:
        raise UserError(
            f"lora: {type(backbone).__name__} has no linear layer of attention for an adapter; choose 'bitfit-norm'."
        )
    return list(dict.fromkeys(found))


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add the adapters of a trained model to its weights and remove them: the network is the backbone's own again."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                layer = child.original_layer
                layer.weight += child.scaling * child.lora_up.weight @ child.lora_down.weight
                setattr(parent, name, layer)
            elif isinstance(child, LoRABackbone):
                setattr(parent, name, child.module)


def with_adapters(model_cfg: Mapping, optim_wrapper: Mapping | None) -> Mapping:
    """The config of a model, with adapters around its backbone if the method asks for them.

    Args:
        model_cfg: ``model`` of a config.
        optim_wrapper: Its ``optim_wrapper``; ``paramwise_cfg.lora`` holds the options of :class:`LoRABackbone`.

    Returns:
        Mapping: ``model_cfg`` itself if nothing is to be added or the backbone has adapters already.

    Raises:
        UserError: An option is unknown, or the model has no backbone that takes adapters.
    """
    paramwise = (optim_wrapper or {}).get('paramwise_cfg') or {}
    options = paramwise.get('lora') if isinstance(paramwise, Mapping) else None
    if options is None:
        return model_cfg
    key = 'optim_wrapper.paramwise_cfg.lora'
    if not isinstance(options, Mapping) or options.keys() - OPTIONS.keys() - {'targets', '_scope_'}:
        raise UserError(f'{key}={dict(options) if isinstance(options, Mapping) else options!r}: takes rank, alpha, '
                        'drop_rate and targets.')  # fmt: skip
    rank = options.get('rank', OPTIONS['rank'])
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UserError(f'{key}.rank={rank!r} is not a whole number >= 1; correct it.')
    backbone = model_cfg.get('backbone')
    if not isinstance(backbone, Mapping):
        raise UserError(f'{key}: the model has no backbone to put adapters into; use an ImageClassifier.')
    if type_name(backbone) in ('LoRABackbone', 'LoRAModel'):
        return model_cfg
    wrapped = dict(type='LoRABackbone', module=deepcopy(dict(backbone)), **{**OPTIONS, **options})
    wrapped['targets'] = _checked_targets(wrapped)
    return type(model_cfg)({**model_cfg, 'backbone': wrapped})


def _checked_targets(wrapped: Mapping) -> list[dict]:
    """The targets of a backbone with adapters, which is built and tried without storage and without weights."""
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmpretrain')
    with torch.device('meta'):
        backbone = MODELS.build(deepcopy(dict(wrapped)))
    net = getattr(backbone.module, 'net', backbone.module)
    if library_of(net) is not None:
        try:
            trace(net, image_shape(net))
        except UserError as error:
            raise UserError(
                f'lora: {type(net).__name__} does not run with adapters ({error}): its attention reads the weights of '
                "its linear layers itself; choose 'bitfit-norm'."
            ) from error
    return backbone.targets
