"""Reading checkpoints: without un-pickling arbitrary objects, whole or not at all; and the demo's packaged weights.

From torch 2.6 on, ``torch.load`` refuses what MMEngine 0.10 writes beside the weights (its log history). Importing this
module allows exactly those classes; ``weights_only`` stays on.
"""

import re
import zipfile
from logging import WARNING
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version

from ..utils.errors import UserError

_PACKAGED = Path(__file__).parents[1] / 'models/weights'


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


def check_readable(path: str) -> dict | None:
    """Open a local checkpoint without reading its tensors; URLs and other schemes pass unseen.

    Args:
        path: What ``load_from`` names.

    Returns:
        dict | None: Its content, tensors mapped from the file where the format allows; ``None`` for a URL.

    Raises:
        UserError: The file is missing, truncated, no checkpoint, or holds objects that are not allowed.
    """
    if '://' in path:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f'{path}: no such checkpoint; name the .pth file that training wrote to its work_dir.')
    if file.suffix == '.safetensors':
        raise UserError(f'{path}: safetensors is not a format MMEngine loads; name a .pth or .pt file.')
    allow_mmengine_globals()  # again: the OneDL fork takes them off the list after each load of its own
    try:
        content = torch.load(file, map_location='cpu', mmap=zipfile.is_zipfile(file), weights_only=True)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        refused = re.search(r'(?i)unsupported (?:global|class)[^\n.]*(?:\.\w+)*', str(error))
        reason = f'it asks to run code: {refused.group(0).strip()}' if refused else reason
        raise UserError(f'{path}: cannot be read as a checkpoint ({reason}); copy it again or name another.') from error
    if not isinstance(content, dict) or not isinstance(content.get('state_dict', content), dict):
        raise UserError(f'{path}: holds no state dict but a {type(content).__name__}; name a checkpoint.')
    return content


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint to resume from: the one that ``last_checkpoint`` names, else the newest numbered one.

    MMEngine writes ``last_checkpoint`` in place and after the file, so that a kill can leave it empty, absent or wrong.

    Returns:
        str | None: A path; ``None`` if the folder holds no checkpoint and expects none.

    Raises:
        UserError: ``last_checkpoint`` names a file that is not there, and there is no other.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    named = pointer.read_text().strip() if pointer.is_file() else ''
    if named and ('://' in named or Path(named).is_file()):
        return named
    numbered = {
        int(found[2]): path
        for path in Path(work_dir).glob('*.pth')
        if (found := re.fullmatch(r'(epoch|iter)_(\d+)\.pth', path.name))
    }
    if not numbered and not pointer.is_file():
        return None
    if not numbered:
        raise UserError(
            f'{pointer}: names {named or "nothing"}, which is not there, and {work_dir} has no other checkpoint; '
            'remove the file to start anew, or name a checkpoint with --resume PATH.'
        )
    newest = str(numbered[max(numbered)])
    print_log(f'{pointer}: names no file that is there; resuming from {newest}.', 'current', WARNING)
    return newest
