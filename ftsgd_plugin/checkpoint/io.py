"""Read checkpoints without unpickling arbitrary objects, find the newest one, and load the packaged weights.

From torch 2.6 on, ``torch.load`` refuses what MMEngine 0.10 writes beside the weights (its log history). Importing this
module allows exactly those classes; ``weights_only`` stays on.
"""

import functools
import importlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from logging import WARNING
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_http, load_from_local
from mmengine.utils import digit_version

from ..layers import unwrap_state_dict
from ..utils.errors import UserError
from ..utils.files import sha256
from ..utils.paths import PREVIOUS
from .integrity import check_whole, damage
from .parts import parts_damage, with_parts

STARTED_FROM = 'ftsgd_started_from'  # message hub: the load_from of a run before it was resumed; empty without one
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
    """Replaces ``getattr`` during unpickling: a log buffer stores its own statistics functions by name."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UserError(f'checkpoint refused: it asks for getattr({owner!r}, {name!r}); load it only if you trust it.')
    return getattr(owner, name)


@CheckpointLoader.register_scheme(prefixes='ftsgd://', force=True)
def load_packaged(filename: str, map_location=None) -> dict[str, torch.Tensor]:
    """Load weights that come with the package: ``ftsgd://NAME`` is ``models/weights/NAME.safetensors``.

    Raises:
        UserError: The package has no such weights, or they are damaged.
    """
    from safetensors.torch import load_file

    path = _PACKAGED / f'{filename.removeprefix("ftsgd://")}.safetensors'
    if not path.is_file():
        known = ', '.join(sorted(f'ftsgd://{file.stem}' for file in _PACKAGED.glob('*.safetensors')))
        raise UserError(f'{filename}: not among the packaged weights ({known}).')
    if sha256(path) != path.with_suffix('.sha256').read_text().split()[0]:
        raise UserError(f'{path}: is damaged: its SHA-256 is not the stored one; install the package again.')
    return load_file(path, device=str(map_location or 'cpu'))


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_whole(filename: str, map_location=None):
    """MMEngine's loader of local files, behind a comparison of their checksums.

    Raises:
        UserError: The file is damaged.
    """
    file = Path(filename).expanduser()
    if file.is_file():
        check_whole(file)
    return with_parts(load_from_local(filename, map_location), file)


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_whole_from_http(filename: str, map_location=None, **options):
    """MMEngine's loader of URLs, with a comparison of the checksums in the file that it keeps in torch's hub cache.

    Raises:
        UserError: The file is damaged.
    """
    content = load_from_http(filename, map_location, **options)
    kept = Path(
        options.get('model_dir') or Path(torch.hub.get_dir()) / 'checkpoints', Path(urlparse(filename).path).name
    )
    if kept.is_file():
        check_whole(kept, remedy='remove it to download it again')
    return content


def check_readable(path: str) -> dict | None:
    """Open a local checkpoint and compare its checksums; URLs and other schemes are not checked.

    Args:
        path: Value of ``load_from``.

    Returns:
        dict | None: Its content, with tensors mapped from the file where the format allows it; ``None`` for a URL. Of
        a checkpoint in parts the parts are compared with their checksums and not read.

    Raises:
        UserError: The file is missing, damaged, truncated or not a checkpoint, or it contains objects that are not
            allowed.
    """
    if '://' in path:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f'{path}: no such checkpoint; name the .pth file that training wrote to its work_dir.')
    if file.suffix == '.safetensors':
        raise UserError(f'{path}: MMEngine does not load safetensors files; name a .pth or .pt file.')
    check_whole(file)
    allow_mmengine_globals()  # again: the OneDL fork removes them from the list after each load of its own
    load = functools.partial(torch.load, file, map_location='cpu', mmap=zipfile.is_zipfile(file), weights_only=True)
    try:
        try:
            content = load()
        except pickle.UnpicklingError:
            if not _allow_compressed_state(file):
                raise
            content = load()
    except UserError:
        raise
    except Exception as error:
        reason = why_unreadable(error, file)
        raise UserError(f'{path}: cannot be read as a checkpoint ({reason}); copy it again or name another.') from error
    if not isinstance(content, dict) or not isinstance(content.get('state_dict', content), dict):
        raise UserError(f'{path}: holds a {type(content).__name__} instead of a state dict; name a checkpoint.')
    if reason := parts_damage(content, file):
        raise UserError(f'{path}: cannot be read as a checkpoint ({reason}); copy file and directory again.')
    return content


def _allow_compressed_state(file: Path) -> bool:
    """Import torchao if a checkpoint holds optimizer state of it: the import lets ``torch.load`` read its tensors."""
    if not any(name.startswith('torchao.optim.') for name in _refused_globals(file)):
        return False
    try:
        importlib.import_module('torchao.optim')
    except ImportError:
        raise UserError(
            f'{file}: holds optimizer state of torchao, which is not installed; run: '
            "pip install 'ftsgd_plugin[optimizers]'"
        ) from None
    return True


def why_unreadable(error: Exception, file: Path) -> str:
    """Say why ``torch.load`` refuses a file. Its own texts advise to switch the protection off: they are not quoted.

    Args:
        error: What ``torch.load`` raised.
        file: The file.

    Returns:
        str: A reason, to follow "it" in a sentence.
    """
    if refused := _refused_globals(file):
        return f'it asks to run code: {", ".join(refused)}'
    if is_torchscript(file):
        return 'it is a TorchScript archive, not a state dict'
    if isinstance(error, pickle.UnpicklingError):
        return 'it holds other objects than tensors and plain values, or its beginning is damaged'
    return f'it was not written by torch.save, or is incomplete ({type(error).__name__})'


def is_torchscript(file: Path) -> bool:
    """Whether a file is an archive of ``torch.jit.save``."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.split('/', 1)[-1] == 'constants.pkl' for name in archive.namelist())


def _refused_globals(file: Path) -> list[str]:
    """Functions and classes that a checkpoint names and ``weights_only`` does not allow.

    Empty if torch cannot list them: before version 2.6, for the format before torch 1.6, or for a damaged file.
    """
    find = getattr(torch.serialization, 'get_unsafe_globals_in_checkpoint', lambda file: [])
    try:
        return sorted(find(file))
    except Exception:
        return []


def weights_of(checkpoint: Mapping) -> dict[str, torch.Tensor]:
    """State dict of a checkpoint's content, without the prefix that a model wrapper adds to every name."""
    return unwrap_state_dict(checkpoint.get('state_dict', checkpoint))


def read_content(path: str) -> dict:
    """Read a checkpoint file, a URL or packaged weights.

    Args:
        path: Value of ``load_from`` or of an ``init_cfg``.

    Raises:
        UserError: As :func:`check_readable`.
    """
    content = check_readable(path)
    if content is None:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')
    return with_parts(content, Path(path).expanduser())


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The state dict in :func:`read_content`, without a model wrapper's prefix."""
    return weights_of(read_content(path))


def latest_checkpoint(work_dir: str) -> str | None:
    """Find the checkpoint to resume from: the one that ``last_checkpoint`` names, else the newest numbered one.

    MMEngine writes ``last_checkpoint`` in place, after the checkpoint itself. A kill can leave it empty, missing or out
    of date.

    Returns:
        str | None: A path; ``None`` if the directory has neither a checkpoint nor a ``last_checkpoint``.

    Raises:
        UserError: ``last_checkpoint`` names a file that does not exist, and the directory has no other checkpoint.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    named = pointer.read_text().strip() if pointer.is_file() else ''
    if named and ('://' in named or Path(named).is_file()):
        return named
    numbered = _numbered(work_dir)
    if not numbered and not pointer.is_file():
        return None
    if not numbered:
        raise UserError(
            f'{pointer}: names {named or "nothing"}, which does not exist, and {work_dir} has no other checkpoint; '
            'remove the file to start from the beginning, or name a checkpoint with --resume PATH.'
        )
    newest = str(numbered[0])
    print_log(f'{pointer}: does not name an existing file; resuming from {newest}.', 'current', WARNING)
    return newest


def _numbered(work_dir: str) -> list[Path]:
    """The checkpoints with training state in a work directory, the newest first."""
    files = [*Path(work_dir).glob('*.pth'), *Path(work_dir, PREVIOUS).glob('*.pth')]
    return sorted((file for file in files if _position(file)), key=lambda file: _position(file)[1], reverse=True)


def _position(file: Path) -> tuple[str, int] | None:
    """Unit and number in the name of a periodic checkpoint, e.g. ``('epoch', 3)``."""
    found = re.fullmatch(r'(epoch|iter)_(\d+)\.pth', file.name)
    return (found[1], int(found[2])) if found else None


def checkpoint_to_resume(work_dir: str) -> str | None:
    """Find the newest checkpoint that is whole: :func:`latest_checkpoint`, unless it is damaged, else an older one.

    Returns:
        str | None: A path; ``None`` if the directory has no checkpoint.

    Raises:
        UserError: The newest checkpoint is damaged and there is no older one, or as :func:`latest_checkpoint`.
    """
    newest = latest_checkpoint(work_dir)
    if newest is None or '://' in newest or not (reason := _damage(newest)):
        return newest
    by_age = functools.cmp_to_key(lambda one, other: -1 if _is_older(other, one) else 1)
    for older in sorted(_numbered(work_dir), key=by_age):
        if _is_older(older, Path(newest)) and not _damage(older):
            print_log(f'{newest}: {reason}; resuming from the newest whole checkpoint, {older}.', 'current', WARNING)
            return str(older)
    raise UserError(
        f'{newest}: {reason}, and {work_dir} has no older whole checkpoint to resume from; remove it to start from the '
        'beginning, or name a copy with --resume PATH.'
    )


def _damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint or its parts; a file that cannot be read for another reason is refused later."""
    if reason := damage(path):
        return reason
    try:
        return parts_damage(
            torch.load(path, map_location='cpu', mmap=zipfile.is_zipfile(path), weights_only=True), path
        )
    except Exception:
        return None


def _is_older(file: Path, than: Path) -> bool:
    """By number; by time where one counts epochs and the other iterations."""
    one, other = _position(file), _position(than)
    if one and other and one[0] == other[0]:
        return one[1] < other[1]
    return file.resolve() != than.resolve() and file.stat().st_mtime_ns <= than.stat().st_mtime_ns


allow_mmengine_globals()
