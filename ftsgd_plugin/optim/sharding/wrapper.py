"""Sharded data parallel training: ``fully_shard`` (FSDP2) per block of the layer list, as a model wrapper."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.dist import broadcast, get_world_size
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS  # the runner looks in the root registry only
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from ...layers import keep_layer_list, list_layers
from ...utils.errors import UserError
from ..sgd_in_backward import SGDInBackwardOptimWrapper
from .missing_gradients import GradientCheck
from .units import block_modules
from .values import is_sharded, load_whole_tensors, part_of

_NAME = "model_wrapper_cfg.type='ShardedDataParallel'"
# They update every weight for itself, so a part of a tensor as it would be in the whole.
SHARDED_OPTIMIZERS = (SGD, Adam, AdamW)
CHECKPOINTS = ('whole', 'parts', 'parts-in-background')
_DTYPES = ('float32', 'bfloat16')  # float16 needs a loss scaler: gradients would become zero without a word
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


@MODEL_WRAPPERS.register_module()
class ShardedDataParallel(nn.Module):
    """Divide parameters, gradients and optimizer state over the ranks (FSDP2, ``torch.distributed.fsdp.fully_shard``).

    Each rank keeps an equal part of every tensor. A block is made whole just before it computes, and its gradients are
    averaged over the ranks and divided again when its backward pass has ended. Blocks are those of the layer list; what
    is outside them (embedding, position, final norm, head) is one more unit. Frozen parameters are divided too, and
    have no gradient and no state on any rank, as everywhere here.

    A model is built, initialised and loaded whole, on the CPU; :meth:`shard` divides it before the first step
    (``ShardingHook``, which ``tools/train.py`` registers, calls it).

    Args:
        module (BaseModel): The model; its parameters and buffers are broadcast from rank 0.
        mixed_precision (str | dict, optional): ``'bfloat16'``: forward and backward pass in it, weights, reduction and
            updates in float32. Or a dict with ``param_dtype``, ``reduce_dtype``. Logits are always float32. Defaults
            to ``None``: everything in the dtype of the weights.
        cpu_offload (bool): Keep the divided parameters, gradients and optimizer state on the CPU, where they are
            updated. Defaults to False.
        activation_checkpointing (bool): Keep only the input of each block, and compute its forward pass again in the
            backward pass. Defaults to False.
        reshard_after_forward (bool): Free a block after its forward pass and gather it again in the backward pass;
            False needs the memory of the whole model for less communication. Defaults to True.
        checkpoints (str): ``'whole'``: one file as of every other run, gathered by rank 0. ``'parts'``: each rank
            writes its parts into a directory beside the file (``torch.distributed.checkpoint``).
            ``'parts-in-background'``: so while the training continues, from a copy of the parts. Defaults to
            ``'whole'``.

    Raises:
        UserError: An option has a value that cannot be meant.

    Examples:
        >>> model_wrapper_cfg = dict(type='ShardedDataParallel', mixed_precision='bfloat16')
    """

    has_no_reducer = True  # nothing to keep in step with what trains

    def __init__(
        self,
        module: nn.Module,
        mixed_precision: str | Mapping | None = None,
        cpu_offload: bool = False,
        activation_checkpointing: bool = False,
        reshard_after_forward: bool = True,
        checkpoints: str = 'whole',
    ) -> None:
        super().__init__()
        if checkpoints not in CHECKPOINTS:
            raise UserError(
                f'model_wrapper_cfg.checkpoints={checkpoints!r} is none of {", ".join(map(repr, CHECKPOINTS))}.'
            )
        switches = dict(
            cpu_offload=cpu_offload,
            activation_checkpointing=activation_checkpointing,
            reshard_after_forward=reshard_after_forward,
        )
        for key, value in switches.items():
            if not isinstance(value, bool):
                raise UserError(f'model_wrapper_cfg.{key}={value!r} is neither True nor False.')
        self.checkpoints = checkpoints
        self.module = module
        self.cpu_offload, self.activation_checkpointing = cpu_offload, activation_checkpointing
        self.reshard_after_forward = reshard_after_forward
        self._dtypes = _precision(mixed_precision)
        self._trained: list[bool] | None = None  # what trained in the last forward pass
        self._units: dict[str, nn.Module] = {}
        for tensor in [*module.parameters(), *module.buffers()]:
            broadcast(tensor.data, src=0)
        module.cpu()  # the runner has put it on the device; only its parts belong there

    @property
    def is_sharded(self) -> bool:
        """Whether :meth:`shard` has divided the model."""
        return is_sharded(self.module)

    def shard(self, optim_wrapper: OptimWrapper | Optimizer | None = None) -> None:
        """Divide the model over the ranks, and what an optimizer knows about it; a second call does nothing.

        Args:
            optim_wrapper: MMEngine's wrapper of the optimizer that trains the model, or the optimizer; its parameters
                and its state are replaced by their parts. Defaults to ``None``: the model is only evaluated.

        Raises:
            UserError: The optimizer or the optimizer wrapper does not work on parts of tensors or trains others than
                the model's, or the model cannot be divided per block.
        """
        module = self.module
        if optim_wrapper is not None:
            self._refuse_unsupported(optim_wrapper)
            self._refuse_foreign(getattr(optim_wrapper, 'optimizer', optim_wrapper))
        if self.is_sharded:
            return
        layers = list_layers(module)
        self._units = block_modules(module, layers)
        if self.activation_checkpointing:
            _refuse_counted_twice(self._units)
        keep_layer_list(module)
        whole = dict(module.named_parameters())
        self._divide()
        parts = dict(module.named_parameters())
        assert whole.keys() == parts.keys(), 'sharding has renamed parameters'
        for name, param in whole.items():
            vars(parts[name]).update({key: value for key, value in vars(param).items() if key != 'grad'})
        if optim_wrapper is not None:
            _replace_parameters(optim_wrapper, {whole[name]: part for name, part in parts.items()})
        for part in module.modules():  # it moves the images
            if isinstance(part, BaseDataPreprocessor):
                part.to(self._device)
        GradientCheck(module, self._units)
        module.register_forward_pre_hook(self._follow_trained, prepend=True)
        module.register_forward_hook(self._free_after_evaluation)
        load_whole_tensors(module, self._free)

    def train_step(self, data: dict | tuple | list, optim_wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
        """Run the training step of the module.

        Raises:
            UserError: The model has not been divided.
        """
        if not self.is_sharded:
            raise UserError(
                f"{_NAME}: nothing has divided the model; add custom_hooks=[dict(type='ShardingHook')] to the config, "
                'or call shard(optim_wrapper) before the first step.'
            )
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: dict | tuple | list) -> list:
        """Run the validation step of the module, divided."""
        self.shard()
        return self.module.val_step(data)

    def test_step(self, data: dict | tuple | list) -> list:
        """Run the test step of the module, divided."""
        self.shard()
        return self.module.test_step(data)

    def forward(self, *args, **kwargs):
        """Run the forward pass of the module."""
        return self.module(*args, **kwargs)

    @property
    def _device(self) -> torch.device:
        return torch.device('cuda', torch.cuda.current_device()) if torch.cuda.is_available() else torch.device('cpu')

    def _divide(self) -> None:
        from torch.distributed import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        on_gpu = self._device.type == 'cuda'
        options: dict[str, Any] = dict(
            mesh=init_device_mesh(self._device.type, (get_world_size(),)),
            mp_policy=MixedPrecisionPolicy(**self._dtypes),
            offload_policy=CPUOffloadPolicy(pin_memory=on_gpu) if self.cpu_offload else OffloadPolicy(),
        )
        for unit in self._units.values():
            if self.activation_checkpointing:
                unit.forward = _checkpointed(unit.forward)
            fully_shard(unit, reshard_after_forward=self.reshard_after_forward, **options)
        fully_shard(self.module, **options)
        head = getattr(self.module, 'head', None)
        if self._dtypes and isinstance(head, nn.Module):
            head.register_forward_hook(_in_float32)

    def _follow_trained(self, module: nn.Module, args: tuple) -> None:
        """Let torch decide again in which dtype gradients are reduced, when other parameters train.

        It decides once, in the first forward pass, and not for a unit that is wholly frozen then (pytorch#186998).
        """
        if not self._dtypes:
            return
        trained = [param.requires_grad for param in module.parameters()]
        if self._trained is not None and trained != self._trained:
            for unit in (*self._units.values(), module):
                unit.unshard()
                unit.reshard()
        self._trained = trained

    def _free_after_evaluation(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Put the parts back that torch leaves whole until a backward pass: what opens meanwhile would not be told."""
        if not (torch.is_grad_enabled() and module.training):
            self._free()

    def _free(self) -> None:
        for unit in (*self._units.values(), self.module):
            unit.reshard()

    def _refuse_foreign(self, optimizer: Optimizer) -> None:
        """An optimizer that was built before an evaluation divided the model would train tensors that nobody uses."""
        own = {id(param) for param in self.module.parameters()}
        if any(id(param) not in own for group in optimizer.param_groups for param in group['params']):
            raise UserError(
                f'{_NAME}: the optimizer trains parameters that the model does not have (any more); call '
                'shard(optimizer) before the first evaluation, or build the optimizer after it.'
            )

    def _refuse_unsupported(self, optim_wrapper: OptimWrapper | Optimizer) -> None:
        if hasattr(optim_wrapper, 'optim_wrappers'):
            raise UserError(f'{_NAME}: supports runs with one optimizer only; use MMDistributedDataParallel.')
        optimizer = getattr(optim_wrapper, 'optimizer', optim_wrapper)
        if type(optimizer) not in SHARDED_OPTIMIZERS:
            raise UserError(
                f'{_NAME} cannot be combined with optim_wrapper.optimizer.type={type(optimizer).__name__!r}, which may '
                f'need whole tensors; use {", ".join(kind.__name__ for kind in SHARDED_OPTIMIZERS)}, or '
                "type='MMDistributedDataParallel'."
            )
        if isinstance(optim_wrapper, OptimWrapper) and type(optim_wrapper) not in (
            OptimWrapper,
            SGDInBackwardOptimWrapper,
        ):
            raise UserError(
                f'{_NAME} cannot be combined with optim_wrapper.type={type(optim_wrapper).__name__!r}; use '
                "type='OptimWrapper', and mixed_precision='bfloat16' of the model wrapper in place of --amp."
            )
        if (norm_type := (getattr(optim_wrapper, 'clip_grad_kwargs', None) or {}).get('norm_type', 2)) != 2:
            raise UserError(
                f'{_NAME} cannot be combined with optim_wrapper.clip_grad.norm_type={norm_type!r}: torch takes the '
                'norm of the part of each rank for that of the whole; use 2.'
            )
        if isinstance(optim_wrapper, SGDInBackwardOptimWrapper) and self.cpu_offload:
            raise UserError(
                f'{_NAME}, cpu_offload=True cannot be combined with SGDInBackwardOptimWrapper: the update would read '
                "a gradient that is still on its way to the CPU; use optim_wrapper.type='OptimWrapper'."
            )


def _refuse_counted_twice(units: Mapping[str, nn.Module]) -> None:
    """A second forward pass would move the running statistics again."""
    for name, unit in units.items():
        if any(isinstance(part, _BATCH_NORM) and part.track_running_stats for part in unit.modules()):
            raise UserError(
                f'{_NAME}, activation_checkpointing=True: the batch norms in {name} would count every batch twice; '
                'leave it out.'
            )


def _precision(value: str | Mapping | None) -> dict[str, torch.dtype]:
    """The dtypes of torch's ``MixedPrecisionPolicy``; empty for none."""
    if value is None:
        return {}
    chosen = dict(value) if isinstance(value, Mapping) else {'param_dtype': value, 'reduce_dtype': 'float32'}
    for key, name in chosen.items():
        if key not in ('param_dtype', 'reduce_dtype') or name not in _DTYPES:
            raise UserError(
                f'model_wrapper_cfg.mixed_precision={value!r}: {key}={name!r} is not param_dtype or reduce_dtype with '
                f"one of {', '.join(map(repr, _DTYPES))}; write mixed_precision='bfloat16'."
            )
    return {key: getattr(torch, name) for key, name in chosen.items()}


def _checkpointed(forward: Callable) -> Callable:
    @functools.wraps(forward)
    def recomputed(*args, **kwargs):
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed


def _in_float32(module: nn.Module, args: tuple, output: Any) -> Any:
    return output.float() if isinstance(output, torch.Tensor) and output.is_floating_point() else output


def _replace_parameters(optim_wrapper: OptimWrapper | Optimizer, parts: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Let an optimizer train the parts of its parameters, with the parts of its state."""
    optimizer = getattr(optim_wrapper, 'optimizer', optim_wrapper)
    group_of = {param: group for group in optimizer.param_groups for param in group['params']}
    for group in optimizer.param_groups:
        group['params'] = [parts[param] for param in group['params']]
    state = list(optimizer.state.items())
    optimizer.state.clear()
    for param, values in state:
        part = parts[param]
        for key, value in values.items():
            if not isinstance(value, torch.Tensor):
                continue
            counts_there = group_of[param].get('fused') or group_of[param].get('capturable')
            if value.ndim and value.shape == part.shape:
                value = part_of(value, part)
            elif value.ndim or counts_there:  # such an update reads the count of steps on the device of the weights
                value = value.to(part.to_local().device)
            values[key] = value
        optimizer.state[part] = values
    if hasattr(optim_wrapper, 'replace_parameters'):
        optim_wrapper.replace_parameters(parts)
