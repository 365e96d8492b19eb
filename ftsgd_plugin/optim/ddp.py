"""Keep the reducer of ``DistributedDataParallel`` in step with what trains.

MMEngine wraps the model before the optimizer constructor runs, so the reducer waits for the gradients of layers that
were frozen afterwards, and never reduces those of layers that were unfrozen. Whenever the set of trained parameters has
changed, the reducer is rebuilt just before the next forward pass.
"""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from ..utils.errors import UserError

_REDUCED = '_ftsgd_reduced'  # on the wrapper: ids of the parameters that its reducer was built for


def follow_trained_parameters(wrapped: nn.Module, model: nn.Module) -> list[RemovableHandle]:
    """Rebuild the reducers of a model whenever the ``requires_grad`` of its parameters has changed.

    All ranks must freeze the same parameters at the same step. Repeated calls are fine.

    Args:
        wrapped: The model as the runner holds it; may be ``model`` itself.
        model: The model inside, ``unwrap(wrapped)``.

    Returns:
        list[RemovableHandle]: The hooks; without them nothing follows.

    Raises:
        UserError: The model is wrapped in something whose reduction cannot follow (FSDP, DeepSpeed). Raised by a
            forward pass: what trains has changed under ``static_graph=True`` after the first backward pass; or the
            model was wrapped after this call, so that nothing would rebuild the reducer.
    """
    wrappers = _reducing(wrapped)
    followed = bool(wrappers) or getattr(wrapped, 'has_no_reducer', False)  # InBackwardDataParallel
    # A wrapper of unknown type has its module as the only child, and what it does with gradients is unknown too.
    is_wrapped = model is not wrapped or [name for name, _ in model.named_children()] == ['module']
    if is_wrapped and not followed and torch.distributed.is_initialized():
        raise UserError(
            f'model_wrapper_cfg: freezing under {type(wrapped).__name__} is not supported; '
            "use model_wrapper_cfg=dict(type='ShardedDataParallel'), or type='MMDistributedDataParallel'."
        )
    handles = []
    for wrapper in wrappers:
        handles.append(wrapper.register_forward_pre_hook(_rebuild_reducer_if_stale))
        _rebuild_reducer_if_stale(wrapper)
    return [*handles, model.register_forward_pre_hook(_refuse_late_wrapper)]


def rebuild_reducers(wrapped: nn.Module) -> None:
    """Rebuild the reducers of a model once, for what trains now."""
    for wrapper in _reducing(wrapped):
        _rebuild_reducer_if_stale(wrapper)


def _reducing(wrapped: nn.Module) -> list[DistributedDataParallel]:
    # MMSeparateDistributedDataParallel is a DistributedDataParallel by name only: its children have the reducers.
    return [m for m in wrapped.modules() if isinstance(m, DistributedDataParallel) and hasattr(m, 'reducer')]


def _refuse_late_wrapper(model: nn.Module, args: tuple = ()) -> None:
    if model.training:  # outside the disabled function: torch.export traces a model in eval mode with its hooks
        _check_wrapper()


@torch._dynamo.disable
def _check_wrapper() -> None:
    wrapper = getattr(DistributedDataParallel, '_active_ddp_module', None)
    if wrapper is not None and not hasattr(wrapper, _REDUCED):
        raise UserError(
            'the model was wrapped in DistributedDataParallel after its optimizer had been built, so gradients of '
            'layers that open later would not be reduced; wrap the model first, then build the optimizer.'
        )


@torch._dynamo.disable
def _rebuild_reducer_if_stale(wrapper: DistributedDataParallel, args: tuple = ()) -> None:
    trained = [id(param) for param in wrapper.module.parameters() if param.requires_grad]
    if trained == getattr(wrapper, _REDUCED, None) or not trained:
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
    setattr(wrapper, _REDUCED, trained)
