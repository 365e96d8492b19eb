"""Continue from a checkpoint with the config's hyperparameters and schedules, where that is well defined."""

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy

from mmengine.optim import OptimWrapper

from .differences import SCALER_OPTIONS
from .settings import COUNTERS, by_key, by_name, saved_optimizers, saved_schedulers

_KINDS_OF_UPDATE = ('foreach', 'fused')  # how PyTorch computes one and the same update


def adopt_kind_of_update(checkpoint: dict, optim_wrapper: OptimWrapper) -> None:
    """Keep the run's own kind of update (``foreach``, ``fused``) where it or the checkpoint leaves the choice open.

    The default depends on the device; with the checkpoint's value the optimizer's state and what was built for it would
    not fit together.

    Args:
        checkpoint: Content of the file, without a :func:`foreign_state`; changed in place.
        optim_wrapper: The run's optimizer wrapper.
    """
    for key, saved in saved_optimizers(checkpoint).items():
        for before, now in zip(saved['param_groups'], by_name(optim_wrapper)[key].optimizer.param_groups):
            for kind in _KINDS_OF_UPDATE:
                if kind in before and kind in now and None in (before[kind], now[kind]):
                    before[kind] = now[kind]


def adopt_settings(
    checkpoint: dict, optim_wrapper: OptimWrapper, schedulers: Sequence | Mapping | None, epoch_length: int
) -> None:
    """Give a checkpoint the hyperparameters that a run by this config would have at the checkpoint's position.

    The schedulers take as many steps as that run would have taken; the optimizer's groups follow. The rest of the
    optimizer's state (momentum, moments) stays, except that of parameters which are closed now.

    Args:
        checkpoint: Content of the file, without a :func:`foreign_state`; changed in place.
        optim_wrapper: The run's optimizer wrapper; its groups and schedulers move to the position.
        schedulers: The run's parameter schedulers.
        epoch_length: Iterations per epoch.
    """
    own = by_key(schedulers)
    for key, saved in saved_schedulers(checkpoint).items():
        for state, scheduler in zip(saved, own.get(key, [])):
            if hasattr(scheduler, 'adopt_ends'):  # which phases ended early was decided by evaluations
                scheduler.adopt_ends(state)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # schedulers warn where no optimizer step came before theirs
        _advance([scheduler for group in own.values() for scheduler in group], checkpoint['meta'], epoch_length)
    for key, saved in saved_optimizers(checkpoint).items():
        wrapper = by_name(optim_wrapper)[key]
        for before, now in zip(saved['param_groups'], wrapper.optimizer.param_groups):
            indices = before['params']
            kept = {option: value for option, value in before.items() if option in COUNTERS & now.keys()}
            before.clear()
            before.update({option: deepcopy(value) for option, value in now.items() if option != 'params'})
            before.update(kept, params=indices)
            for index, param in zip(indices, now['params']):
                if not param.requires_grad:
                    saved['state'].pop(index, None)
        if getattr(wrapper, 'base_param_settings', None) is not None:
            saved['base_param_settings'] = deepcopy(wrapper.base_param_settings)
        scaler = getattr(wrapper, 'loss_scaler', None)
        if scaler is not None and saved.get('loss_scaler'):
            now = scaler.state_dict()
            saved['loss_scaler'].update({option: now[option] for option in SCALER_OPTIONS if option in now})
    states = {key: [deepcopy(scheduler.state_dict()) for scheduler in group] for key, group in own.items()}
    if 'param_schedulers' in checkpoint:
        single = isinstance(checkpoint['param_schedulers'], list)
        checkpoint['param_schedulers'] = states.get('', []) if single else states


def _advance(schedulers: Sequence, meta: Mapping[str, int], epoch_length: int) -> None:
    """Step schedulers as MMEngine's ``ParamSchedulerHook`` does up to a position."""
    by_epoch = [scheduler for scheduler in schedulers if scheduler.by_epoch]
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    epochs = 0
    for iteration in range(1, meta['iter'] + 1 if by_iteration else 1):
        for scheduler in by_iteration:
            scheduler.step()
        if epochs < meta['epoch'] and iteration == (epochs + 1) * epoch_length:
            epochs += 1
            for scheduler in by_epoch:
                scheduler.step()
    for _ in range(epochs, meta['epoch']):
        for scheduler in by_epoch:
            scheduler.step()
