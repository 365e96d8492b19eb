"""``torch.distributed`` and freezing: the reducer must believe what trains.

MMEngine wraps the model before the optimizer constructor runs, so ``DistributedDataParallel`` waits for the gradients
of layers that were frozen afterwards, and never reduces those that were unfrozen. Both are mended here: whenever the
set of trained parameters has changed, the wrapper's reducer is built anew, just before the next forward pass.
"""

import logging
import os
import sys
from unittest import mock

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .data_parallel import InBackwardDataParallel
from .errors import UserError
from .freezing import keep_closed_layers_in_eval_mode
from .layers import list_layers, unwrap

_TRAINED = '_ftsgd_trained'  # ids of the parameters a wrapper's reducer was built for, kept on the wrapper


def follow_trained_parameters(model: nn.Module) -> None:
    """Keep a model in step with the ``requires_grad`` of its parameters, from one forward pass to the next.

    The reducer of every ``DistributedDataParallel`` in it is rebuilt for what trains; layers of which nothing trains
    stay in eval mode. All ranks must freeze the same parameters at the same step.

    Args:
        model: The model as the runner holds it, wrapped or not.

    Raises:
        UserError: The model is wrapped in something whose reduction cannot follow (FSDP, DeepSpeed); at a forward pass
            in training: it was wrapped afterwards, so that nobody would rebuild the reducer.
    """
    # MMSeparateDistributedDataParallel is a DistributedDataParallel by name only: its children have the reducers.
    wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel) and hasattr(m, 'reducer')]
    inner = unwrap(model)
    followed = bool(wrappers) or isinstance(model, InBackwardDataParallel)
    if inner is not model and not followed and torch.distributed.is_initialized():
        raise UserError(
            f'model_wrapper_cfg: freezing under {type(model).__name__} is not supported; '
            "use model_wrapper_cfg=dict(type='MMDistributedDataParallel')."
        )
    for wrapper in wrappers:
        if not hasattr(wrapper, _TRAINED):
            wrapper.register_forward_pre_hook(_rebuild_reducer_if_stale)
        _rebuild_reducer_if_stale(wrapper)
    if not hasattr(inner, _TRAINED):
        inner.register_forward_pre_hook(_close_layers_if_changed)
        setattr(inner, _TRAINED, None)


@torch._dynamo.disable
def _close_layers_if_changed(model: nn.Module, args: tuple = ()) -> None:
    if not model.training:
        return
    wrapper = getattr(DistributedDataParallel, '_active_ddp_module', None)
    if wrapper is not None and not hasattr(wrapper, _TRAINED):
        raise UserError(
            'the model was wrapped in DistributedDataParallel after its optimizer had been built, so gradients of '
            'layers that open later would not be reduced; wrap the model first, then build the optimizer.'
        )
    trained = [id(param) for param in model.parameters() if param.requires_grad]
    if trained != getattr(model, _TRAINED):
        keep_closed_layers_in_eval_mode(model, list_layers(model))
        setattr(model, _TRAINED, trained)


@torch._dynamo.disable
def _rebuild_reducer_if_stale(wrapper: DistributedDataParallel, args: tuple = ()) -> None:
    trained = [id(param) for param in wrapper.module.parameters() if param.requires_grad]
    if trained == getattr(wrapper, _TRAINED, None) or not trained:
        return
    # What DistributedDataParallel.__setstate__ does; a second __init__ would drop the hooks and broadcast all weights.
    parameters, sparse = wrapper._build_params_for_reducer()
    names = wrapper._build_debug_param_to_name_mapping(parameters)
    wrapper._ddp_init_helper(parameters, sparse, names, wrapper.static_graph)
    wrapper._has_rebuilt_buckets = False
    if wrapper.static_graph:
        wrapper.reducer._set_static_graph()
        wrapper.logger._set_static_graph()
    for hook, state in wrapper._comm_hooks:
        torch.distributed._register_comm_hook(wrapper.reducer, state, hook)
    setattr(wrapper, _TRAINED, trained)


def init_cpu_group(launcher: str, **dist_cfg) -> None:
    """Join the ranks of a machine without a GPU over gloo, for any of MMEngine's launchers.

    MMEngine's own ``init_dist`` calls ``torch.cuda.set_device``, which needs a driver.

    Args:
        launcher: ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        **dist_cfg: ``env_cfg.dist_cfg`` of the config; its backend is replaced.
    """
    from mmengine.dist import init_dist

    if torch.multiprocessing.get_start_method(allow_none=True) is None:
        torch.multiprocessing.set_start_method('fork')  # MMEngine's default for workers; init_dist would choose spawn
    with mock.patch('torch.cuda.set_device'):
        init_dist(launcher, **{**dist_cfg, 'backend': 'gloo'})


def leave_group() -> None:
    """End a distributed program whose work is done, together with the other ranks.

    Over gloo the process ends here: its threads abort the interpreter's shutdown now and then ("terminate called
    without an active exception", seen twice with torch 2.11), and a finished run would count as failed.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    torch.distributed.barrier()
    if torch.distributed.get_backend() == 'gloo':
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    torch.distributed.destroy_process_group()
