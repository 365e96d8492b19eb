"""Find parts of a run that do not fit each other, once they are built and before the first step."""

import logging
import random
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..layers import unwrap
from ..models.image_size import built_for
from ..optim.composition import check_composition, check_rates_by_layer
from ..optim.constructor import FreezeEmbedOptimWrapperConstructor as OURS
from ..optim.paramwise import check_custom_keys
from ..utils.errors import UserError
from ..utils.names import type_name
from .watched_metrics import check_watched_metrics

_MOST_LABELS = 200_000  # labels of a data set without named classes are read one by one


class FitHook(Hook):
    """Check a training run before its first step; :func:`ftsgd_plugin.runner.build.build_runner` registers it.

    Raises:
        UserError: The training data has no batch, the head has fewer classes than it, the head takes other features
            than the backbone's, a watched metric is never reported, is of OOD data or has the wrong rule, a scheduler
            cannot be composed with gradual unfreezing or with learning rates by layer, weights of 16 bits are averaged,
            or a custom key matches no parameter.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Check what this run has built. Private names: the public properties would build what it does not use."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        model = unwrap(runner.model)
        check_batches(runner._train_loop.dataloader)
        check_classes(model, runner._train_loop.dataloader.dataset)
        check_features(model)
        check_average(model, runner.hooks)
        wrapper = runner.cfg.get('optim_wrapper')
        if isinstance(wrapper, Mapping) and type_name(wrapper.get('constructor')) != OURS.__name__:  # it has looked
            check_custom_keys(model, wrapper.get('paramwise_cfg'))
        schedulers = runner.param_schedulers or []
        for several in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
            check_composition(several)
        if isinstance(wrapper, Mapping) and not isinstance(schedulers, dict):
            check_rates_by_layer(wrapper.get('paramwise_cfg'), schedulers)
        if isinstance(runner._val_loop, BaseLoop):
            check_watched_metrics(runner, runner._val_loop)


def check_batches(loader: DataLoader) -> None:
    """Find training data without a single batch: every epoch would end at once, and the run be finished.

    Raises:
        UserError: There is none.
    """
    if len(loader) == 0:
        raise UserError(
            f'train_dataloader: {len(loader.dataset)} images give no batch of batch_size={loader.batch_size} with '
            'drop_last=True; set a smaller batch_size, or drop_last=False.'
        )


def check_classes(model: nn.Module, dataset) -> None:
    """Find a head that has no output for some class of the training data. More outputs than classes are a warning.

    Raises:
        UserError: There are fewer.
    """
    outputs = getattr(getattr(model, 'head', None), 'num_classes', None)
    if not isinstance(outputs, int):
        return
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is not None:
        count, what = len(classes), f'the training data has {len(classes)} classes'
    else:
        if not hasattr(dataset, 'get_gt_labels') or len(dataset) > _MOST_LABELS:
            return
        labels = np.asarray(dataset.get_gt_labels())
        if labels.ndim != 1 or not labels.size:
            return
        count, what = int(labels.max()) + 1, f'the training data has labels up to {int(labels.max())}'
    if outputs < count:
        raise UserError(f'model.head.num_classes={outputs}: {what}; set model.head.num_classes={count}.')
    if classes is not None and outputs > count:
        print_log(
            f'model.head.num_classes={outputs}: {what}; the other outputs are never right.',
            logger='current',
            level=logging.WARNING,
        )


def check_average(model: nn.Module, hooks: Iterable[Hook]) -> None:
    """Refuse an average of weights that is kept in 16 bits, where its small steps are rounded away: it never moves.

    Raises:
        UserError: The run has an ``EMAHook`` and the model has such weights.
    """
    kinds = {str(param.dtype).removeprefix('torch.') for param in model.parameters() if param.element_size() == 2}
    if kinds and any(isinstance(hook, EMAHook) for hook in hooks):
        raise UserError(
            f"custom_hooks: EMAHook keeps its average in the weights' {min(kinds)}, where it would stay that of the "
            'start; remove the hook, or set master_weight_bits=None in optim_wrapper.optimizer.'
        )


class _Mismatch(Exception):
    pass


def check_features(model: nn.Module) -> None:
    """Find a head whose first linear layer takes another number of features than backbone and neck yield.

    If an attribute of the backbone says the number that the head takes, that is enough. Else the shapes come from a
    forward pass on the meta device, which computes nothing (a second for a large model). A model that cannot run there
    is not checked.

    Raises:
        UserError: They differ.
    """
    backbone, neck, head = (getattr(model, name, None) for name in ('backbone', 'neck', 'head'))
    if not isinstance(backbone, nn.Module) or not isinstance(head, nn.Module):
        return
    if _says(backbone, neck, getattr(head, 'in_channels', None)):
        return
    size = built_for(backbone) or 224

    def compare(module: nn.Linear, args: tuple) -> None:
        if args and isinstance(args[0], torch.Tensor) and args[0].shape[-1] != module.in_features:
            raise _Mismatch(module.in_features, tuple(args[0].shape[1:]))

    handles = [module.register_forward_pre_hook(compare) for module in head.modules() if isinstance(module, nn.Linear)]
    states = random.getstate(), np.random.get_state()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = torch.empty(2, 3, size, size, device='meta')
            for part in (backbone, neck, head):
                if isinstance(part, nn.Module):
                    features = torch.func.functional_call(part, _on_meta(part), (features,))
    except _Mismatch as mismatch:
        wanted, shape = mismatch.args
    except Exception:  # an operator without a meta kernel, a head with other arguments
        return
    else:
        return
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for handle in handles:
            handle.remove()
    if len(shape) > 1 and neck is None:
        remedy = "add neck=dict(type='GlobalAveragePooling') to the model"
    else:
        remedy = f'set model.head.in_channels={shape[-1]}'
    raise UserError(
        f'model.head.in_channels={wanted}: backbone and neck yield {" x ".join(map(str, shape))} features; {remedy}.'
    )


def _says(backbone: nn.Module, neck: nn.Module | None, features: int | None) -> bool:
    """Whether an attribute of the backbone states that it yields so many features."""
    if neck is None:  # a convnet's features need to be pooled
        return features in (getattr(backbone, 'num_features', None), getattr(backbone, 'embed_dims', None))
    channels = getattr(backbone, 'channels', None)
    last = channels[-1] if isinstance(channels, list | tuple) and channels else None
    return features in (last, *(getattr(backbone, name, None) for name in ('num_features', 'embed_dims', 'feat_dim')))


def _on_meta(module: nn.Module) -> dict[str, torch.Tensor]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: torch.empty_like(tensor, device='meta') for name, tensor in tensors.items()}
