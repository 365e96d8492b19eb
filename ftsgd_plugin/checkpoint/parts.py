"""Checkpoints in parts: every rank writes its part of every tensor (``torch.distributed.checkpoint``).

The file ``NAME.pth`` has what any checkpoint has, with empty tensors in the place of the divided ones, and names a
directory beside it with their parts, in the format safetensors: nothing in it can ask to run code. A reader gets whole
tensors, so everything that reads checkpoints reads these.

A directory gets its name when it is complete, then the file is written: a kill leaves the checkpoint before.
"""

import glob
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..utils.errors import UserError
from ..utils.files import sync_directory, temporary_name, write_text

ENTRY = 'ftsgd_parts'  # in the file: the name of the directory
_CHECKSUMS = 'checksums.json'  # in the directory: CRC-32 of its other files
WEIGHTS, STATE = 'weights', 'state'
_SUFFIX = '.parts'
_PIECE = 1 << 20  # bytes per read
_whole: set[tuple] = set()  # identities of the files that this process has found whole


def divided(checkpoint: Mapping[str, Any], values: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A checkpoint's ``state_dict`` or ``optimizer`` with empty tensors for the divided ones, which go to ``values``.

    Args:
        checkpoint: ``{'state_dict': ..., 'optimizer': ...}``; the second may be missing.
        values: Receives the divided tensors by their names in the directory.
    """

    def take(name: str, value: Any) -> Any:
        if not hasattr(value, 'to_local'):
            return value.detach().cpu() if isinstance(value, torch.Tensor) else value
        values[name] = value.detach()
        return torch.empty(0, dtype=value.dtype)

    weights = {name: take(f'{WEIGHTS}.{name}', value) for name, value in checkpoint['state_dict'].items()}
    result: dict[str, Any] = {'state_dict': weights}
    if (optimizer := checkpoint.get('optimizer')) is not None:
        state = {
            index: {key: take(f'{STATE}.{index}.{key}', value) for key, value in own.items()}
            for index, own in optimizer['state'].items()
        }
        result['optimizer'] = {**optimizer, 'state': state}
    return result


def writer(directory: Path):
    """What ``torch.distributed.checkpoint`` writes the parts of all ranks with."""
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    return HuggingFaceStorageWriter(str(directory), save_distributed=True)


def new_directory(checkpoint: Path, iteration: int) -> Path:
    """A name beside a checkpoint file that no earlier directory has."""
    number = 0
    while (path := checkpoint.with_name(f'{checkpoint.stem}.{iteration}.{number}{_SUFFIX}')).exists():
        number += 1
    return path


def commit(temporary: Path, directory: Path) -> None:
    """Give a complete directory its checksums and its name.

    Raises:
        UserError: It cannot be written.
    """
    try:
        checksums = {file.name: _checksum(file, sync=True) for file in sorted(temporary.iterdir())}
        write_text(temporary / _CHECKSUMS, json.dumps(checksums, indent=1) + '\n')
        temporary.rename(directory)
        sync_directory(directory.parent)
    except OSError as error:
        raise UserError(
            f'{directory}: cannot be written ({error.strerror or error}); make room or choose another work_dir.'
        ) from error


def temporary_of(directory: Path) -> Path:
    """Name of a directory while it is written."""
    return directory.with_name(temporary_name(directory.name))


def directories_of(checkpoint: Path) -> list[Path]:
    """The directories of a checkpoint file, those of earlier files of its name included."""
    return [path for path in checkpoint.parent.glob(f'{glob.escape(checkpoint.stem)}.*{_SUFFIX}') if path.is_dir()]


def remove_parts(checkpoint: str | Path, keep: str = '') -> None:
    """Remove the directories of a checkpoint file that is gone or has another now, named by ``keep``."""
    for directory in directories_of(Path(checkpoint)):
        if directory.name != keep:
            shutil.rmtree(directory, ignore_errors=True)


def parts_damage(content: Mapping, path: str | Path) -> str | None:
    """Find what is wrong with the parts of a checkpoint's content; ``None`` if nothing is, or it has none."""
    name = content.get(ENTRY)
    if name is None:
        return None
    directory = Path(path).parent / Path(name).name
    try:
        checksums = json.loads((directory / _CHECKSUMS).read_text())
    except (OSError, ValueError):
        return f'the directory {directory.name} with its parts is missing or not whole'
    for name, checksum in checksums.items():
        file = directory / name
        if not file.is_file():
            return f'its part {directory.name}/{name} is missing'
        status = file.stat()
        identity = (str(file.resolve()), status.st_ino, status.st_size, status.st_mtime_ns)
        if identity in _whole:
            continue
        if _checksum(file) != checksum:
            return f'the checksum of its part {directory.name}/{name} is not that of its content'
        _whole.add(identity)
    return None


def with_parts(content: dict, path: str | Path) -> dict:
    """The content of a checkpoint with its divided tensors, whole and on the CPU; content without parts as it is.

    Args:
        content: What is in the file.
        path: The file.

    Raises:
        UserError: A part is missing or damaged.
    """
    if not isinstance(content, dict) or ENTRY not in content:
        return content
    if reason := parts_damage(content, path):
        raise UserError(f'{path}: cannot be read as a checkpoint ({reason}); copy file and directory again.')
    values = read_parts(Path(path).parent / Path(content[ENTRY]).name)
    content = dict(content)
    content['state_dict'] = {
        name: values.get(f'{WEIGHTS}.{name}', value) for name, value in content['state_dict'].items()
    }
    if (optimizer := content.get('optimizer')) is not None:
        state = {
            index: {key: values.get(f'{STATE}.{index}.{key}', value) for key, value in own.items()}
            for index, own in optimizer['state'].items()
        }
        content['optimizer'] = {**optimizer, 'state': state}
    return {key: value for key, value in content.items() if key != ENTRY}


def read_parts(directory: Path) -> dict[str, torch.Tensor]:
    """The whole tensors of a directory, on the CPU, by their names in it."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    reader = HuggingFaceStorageReader(str(directory))
    metadata = reader.read_metadata().state_dict_metadata
    values = {name: torch.empty(own.size, dtype=own.properties.dtype) for name, own in metadata.items()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # that this process reads alone, as it is told to
        load(values, storage_reader=reader, no_dist=True)
    return values


def _checksum(file: Path, sync: bool = False) -> int:
    checksum = 0
    with open(file, 'rb') as opened:
        while piece := opened.read(_PIECE):
            checksum = zlib.crc32(piece, checksum)
        if sync:
            os.fsync(opened.fileno())
    return checksum
