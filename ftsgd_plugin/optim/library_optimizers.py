"""What the optimizers of other libraries need around them to train as the others do; none is written here.

- schedulefree keeps two points: gradients are taken at one, the model that counts is the other. :func:`use_mode`
  changes between them; :class:`ftsgd_plugin.hooks.OptimizerModeHook` does so around evaluation and saving.
- sgd-sai scales each tensor once by its first gradient, and forgets on a resume that it has done so.
- torchao keeps rates as tensors where schedulers write numbers, and compiles its update.
- flashoptim wants a network in bfloat16: :mod:`.flash`.
"""

import contextlib
import importlib.util
import io
import weakref
from collections.abc import Callable, Mapping

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import Optimizer

from ..utils.errors import UserError
from ..utils.patching import replaced
from .flash import prepare_flash

# First part of the import path of an optimizer's class -> what installs it.
EXTRAS = {
    'bitsandbytes': "pip install 'ftsgd_plugin[bitsandbytes]'",
    'flashoptim': "pip install 'ftsgd_plugin[optimizers]'",
    'schedulefree': "pip install 'ftsgd_plugin[optimizers]'",
    'sgd_sai': "pip install 'ftsgd_plugin[optimizers]'",
    'torchao': "pip install 'ftsgd_plugin[optimizers]'",
    'torch': 'pip install --upgrade torch',
}


def missing_library(kind: object) -> str | None:
    """Why an optimizer that a config names by its import path cannot be had, and the command that installs it.

    Args:
        kind: ``type`` of ``optim_wrapper.optimizer``.

    Returns:
        str | None: One line; ``None`` if it exists, and for types of other libraries.
    """
    library, _, rest = kind.partition('.') if isinstance(kind, str) else ('', '', '')
    if library not in EXTRAS or not rest:
        return None
    if importlib.util.find_spec(library) and (library != 'torch' or hasattr(torch.optim, rest.rpartition('.')[2])):
        return None
    return f'optim_wrapper.optimizer.type={kind!r}: {library} is not installed or too old; run: {EXTRAS[library]}'


def prepare(optimizer: Optimizer) -> None:
    """Put around an optimizer what its library leaves to the training loop; nothing for those of PyTorch.

    Raises:
        UserError: It cannot train here, or has an option that its library gets wrong.
    """
    library = type(optimizer).__module__.partition('.')[0]
    if library in _PREPARE:
        _PREPARE[library](optimizer)


def has_modes(optimizer: Optimizer) -> bool:
    """Whether an optimizer keeps other weights for evaluation than for training."""
    return callable(getattr(optimizer, 'train', None)) and callable(getattr(optimizer, 'eval', None))


def refuse_training_weights(optimizer: Optimizer, model: nn.Module) -> None:
    """Let a model refuse an evaluation with the weights at which gradients are taken.

    ``tools/train.py`` registers the hook that changes them; under other tools the numbers would be wrong without a
    word. The check leaves the model with the optimizer.

    Args:
        optimizer: One that :func:`has_modes`; others need no check.
        model: The model whose parameters it holds, not wrapped.
    """
    if not has_modes(optimizer):
        return
    reference = weakref.ref(optimizer)

    def refuse(module: nn.Module, args: tuple) -> None:
        held = reference()
        if not module.training and held is not None and any(group.get('train_mode') for group in held.param_groups):
            raise UserError(
                f'{type(held).__name__} is in its training mode, so the evaluated weights would not be those that '
                "count; add custom_hooks=[dict(type='OptimizerModeHook')] to the config."
            )

    weakref.finalize(optimizer, model.register_forward_pre_hook(refuse).remove)


def use_mode(optim_wrapper: OptimWrapper | Mapping, training: bool) -> None:
    """Give the model the weights at which gradients are taken, or those that count. Repeated calls are fine.

    Args:
        optim_wrapper: The wrapper of one optimizer or of several.
        training: Which of the two.
    """
    for inner in getattr(optim_wrapper, 'optim_wrappers', {'': optim_wrapper}).values():
        optimizer = getattr(inner, 'optimizer', None)
        if optimizer is not None and has_modes(optimizer):
            (optimizer.train if training else optimizer.eval)()


def _prepare_sgd_sai(optimizer: Optimizer) -> None:
    if any(group['momentum'] == 0 for group in optimizer.param_groups):
        raise UserError('optim_wrapper.optimizer.momentum=0: sgd_sai.SGD_sai does not run without momentum; set 0.9.')
    optimizer.register_step_pre_hook(_measure_new_scales)


def _measure_new_scales(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    """Let the library measure the scale of every tensor that has its first gradient; the others keep theirs.

    The library measures once, in its first step. Tensors that open later had no gradient then, and after a resume it
    would measure again.
    """
    held = [param for group in optimizer.param_groups for param in group['params'] if param.grad is not None]
    new = [param for param in held if 'gsnr' not in optimizer.state[param]]
    if new:
        kept = {param: optimizer.state[param]['gsnr'] for param in held if 'gsnr' in optimizer.state[param]}
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints three lines
            optimizer.warmup_step()
        for param, scale in kept.items():
            optimizer.state[param]['gsnr'] = scale
        for param in new:
            if param.is_meta:  # a plan of memory: the update reads the scale, which has no value there
                optimizer.state[param]['gsnr'] = torch.ones((), dtype=param.dtype)
    optimizer.has_warmup = True


def _prepare_torchao(optimizer: Optimizer) -> None:
    """Rates are numbers outside of a step, as schedulers and checkpoints have them, and tensors inside."""
    step = optimizer.step

    def step_with_tensors(closure: Callable | None = None):
        rates = [float(group['lr']) for group in optimizer.param_groups]
        on_cpu = all(param.device.type != 'cuda' for group in optimizer.param_groups for param in group['params'])
        for group, rate in zip(optimizer.param_groups, rates):
            group['lr'] = torch.tensor(rate, dtype=torch.float32)
        # Compiling for a CPU takes longer than a short run; the operators are the same.
        compiling = replaced(torch, 'compile', _not_compiled) if on_cpu else contextlib.nullcontext()
        try:
            with compiling:
                return step(closure)
        finally:
            for group, rate in zip(optimizer.param_groups, rates):
                group['lr'] = rate

    for group in optimizer.param_groups:
        group['lr'] = float(group['lr'])
    replaced(optimizer, 'step', step_with_tensors)


def _not_compiled(function: Callable, **options) -> Callable:
    return function


def _prepare_schedulefree(optimizer: Optimizer) -> None:
    optimizer.train()


_PREPARE: dict[str, Callable[[Optimizer], None]] = {
    'flashoptim': prepare_flash,
    'schedulefree': _prepare_schedulefree,
    'sgd_sai': _prepare_sgd_sai,
    'torchao': _prepare_torchao,
}
