"""``torch.distributed`` and freezing: the reducer must believe what trains.

MMEngine wraps the model before the optimizer constructor runs, so ``DistributedDataParallel`` waits for the gradients
of layers that were frozen afterwards, and never reduces those that were unfrozen. Both are mended here: whenever the
set of trained parameters has changed, the wrapper's reducer is built anew, just before the next forward pass.
"""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..freezing import keep_closed_layers_in_eval_mode
from ..layers import list_layers, unwrap
from ..utils.errors import UserError
from .data_parallel import InBackwardDataParallel

_TRAINED = '_ftsgd_trained'  # ids of the parameters a wrapper's reducer was built for, kept on the wrapper


def follow_trained_parameters(model: nn.Module) -> None:
    """Keep a model in step with the ``requires_grad`` of its parameters, from one forward pass to the next.

    The reducer of every ``DistributedDataParallel`` in it is rebuilt for what trains; layers of which nothing trains
    stay in eval mode. All ranks must freeze the same parameters at the same step.

    Args:
        model: The model as the runner holds it, wrapped or not.

    Raises:
        UserError: The model is wrapped in something whose reduction cannot follow (FSDP, DeepSpeed). Raised by a
            forward pass: what trains has changed under ``static_graph=True`` after the first backward pass; or the
            model was wrapped after this call, so that nobody would rebuild the reducer.
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
    if wrapper.static_graph and wrapper._static_graph_delay_allreduce_enqueued:  # set by the first backward pass
        raise UserError(
            'model_wrapper_cfg.static_graph: what trains has changed during training, which a static graph cannot '
            'follow; remove static_graph=True, or freeze the same layers throughout.'
        )
    # What DistributedDataParallel.__setstate__ does; a second __init__ would drop the hooks and broadcast all weights.
    parameters, sparse = wrapper._build_params_for_reducer()
    names = wrapper._build_debug_param_to_name_mapping(parameters)
    wrapper._ddp_init_helper(parameters, sparse, names, wrapper.static_graph)
    wrapper._has_rebuilt_buckets = False  # torch's hooks for ZeRO wait for the buckets of the second forward pass
    if wrapper.static_graph:
        wrapper.reducer._set_static_graph()
        wrapper.logger._set_static_graph()
    for hook, state in wrapper._comm_hooks:
        torch.distributed._register_comm_hook(wrapper.reducer, state, hook)
    setattr(wrapper, _TRAINED, trained)
