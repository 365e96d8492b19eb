"""Checkpoints that load without un-pickling arbitrary objects, and the demo's packaged weights.

From torch 2.6 on, ``torch.load`` refuses what MMEngine 0.10 writes beside the weights (its log history). Importing this
module allows exactly those classes; ``weights_only`` stays on.
"""

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version

from .errors import UserError

_PACKAGED = Path(__file__).parent / 'demo'


def allow_mmengine_globals() -> None:
    """Let ``torch.load(weights_only=True)`` read MMEngine's message hub; idempotent, needed from torch 2.6 on."""
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        return  # weights_only is off by default there
    core = getattr(np, '_core', None) or np.core
    array = core.multiarray
    # numpy 1 and 2 write different module names for the same functions.
    names = ('numpy.core.multiarray', 'numpy._core.multiarray')
    functions = [(getattr(array, name), f'{module}.{name}') for name in ('_reconstruct', 'scalar') for module in names]
    dtypes = [type(np.dtype(code)) for code in ('f4', 'f8', 'i4', 'i8', 'u4', 'u8')]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *functions, (_history_buffer_method, 'builtins.getattr')]
    )


def _history_buffer_method(owner: type, name: str):
    """Stands in for ``getattr`` while un-pickling: a log buffer stores its own statistics functions by name."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UserError(f'checkpoint refused: it asks for getattr({owner!r}, {name!r}); load it only if you trust it.')
    return getattr(owner, name)


@CheckpointLoader.register_scheme(prefixes='ftsgd://', force=True)
def load_from_ftsgd(filename: str, map_location=None) -> dict[str, torch.Tensor]:
    """Load weights that come with the package, e.g. ``ftsgd://vit-tiny`` (safetensors).

    Raises:
        UserError: The package holds no such weights.
    """
    from safetensors.torch import load_file

    path = _PACKAGED / f'{filename.removeprefix("ftsgd://")}.safetensors'
    if not path.is_file():
        known = ', '.join(sorted(f'ftsgd://{file.stem}' for file in _PACKAGED.glob('*.safetensors')))
        raise UserError(f'{filename}: not among the packaged weights ({known}).')
    return load_file(path, device=str(map_location or 'cpu'))


def check_readable(path: str) -> None:
    """Open a local checkpoint without reading its tensors; URLs and other schemes pass unseen.

    Args:
        path: What ``load_from`` names.

    Raises:
        UserError: The file is missing, truncated, no checkpoint, or holds objects that are not allowed.
    """
    if '://' in path:
        return
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f'{path}: no such checkpoint; name the .pth file that training wrote to its work_dir.')
    allow_mmengine_globals()  # again: the OneDL fork takes them off the list after each load of its own
    try:
        torch.load(file, map_location='cpu', mmap=zipfile.is_zipfile(file), weights_only=True)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        refused = re.search(r'(?i)unsupported (?:global|class|operand)[^\n.]*(?:\.\w+)*', str(error))
        reason = f'it asks to run code: {refused.group(0).strip()}' if refused else reason
        raise UserError(f'{path}: cannot be read as a checkpoint ({reason}); copy it again or name another.') from error


def misfits(model: torch.nn.Module, state_dict: dict[str, torch.Tensor]) -> list[str]:
    """What keeps a state dict from filling a model, one phrase per tensor; empty if it fits exactly."""
    own = model.state_dict()
    found = [f'{name} is missing' for name in own if name not in state_dict]
    found += [f'{name} belongs to another model' for name in state_dict if name not in own]
    found += [
        f'{name} is {tuple(value.shape)} instead of {tuple(own[name].shape)}'
        for name, value in state_dict.items()
        if name in own and value.shape != own[name].shape
    ]
    return found
