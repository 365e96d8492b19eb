"""Find damage in a weight file before it is used: ``torch.load`` ignores the checksums that the file holds.

A file of ``torch.save`` is a zip archive with a CRC-32 of every tensor. A flipped bit or a lost block changes one of
them; ``torch.load`` would return other weights. Comparing them costs 0.7 s of CPU time per GiB
(``benchmarks/checksums.md``), and the disk's own time, once, if the file is not in memory yet.
"""

import json
import zipfile
import zlib
from logging import WARNING
from pathlib import Path

from mmengine.logging import print_log

from ..utils.errors import UserError

_PIECE = 1 << 20  # bytes per read
_whole: set[tuple] = set()  # identities of the files that this process has found whole


def check_whole(path: str | Path, remedy: str = 'copy it again or name another') -> None:
    """Compare the checksums in a file with its content; a file that was found whole is not read again.

    A format without checksums (``torch.save`` before version 1.6, or with ``compute_crc32`` off) gets a warning.

    Args:
        path: A local file that exists.
        remedy: What the user can do, for the message.

    Raises:
        UserError: The file is damaged.
    """
    if reason := damage(path):
        raise UserError(f'{path}: cannot be read as a checkpoint ({reason}); {remedy}.')


def damage(path: str | Path) -> str | None:
    """Find what is damaged in a file of ``torch.save``, a TorchScript archive or a safetensors file.

    Args:
        path: A local file that exists.

    Returns:
        str | None: The reason, to follow "it" in a sentence; ``None`` for a whole file and for one whose format has no
        checksums.
    """
    file = Path(path)
    status = file.stat()
    identity = (str(file.resolve()), status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _whole:
        return None
    with open(file, 'rb') as opened:
        start = opened.read(4)
    if not start:
        return 'it is empty'
    if file.suffix == '.safetensors':
        reason = _safetensors_damage(file, status.st_size)
    elif start[:2] == b'PK' or zipfile.is_zipfile(file):
        reason = _zip_damage(file)
    else:
        reason = None
        _warn_without_checksums(file)
    if reason is None:
        _whole.add(identity)
    return reason


def _zip_damage(file: Path) -> str | None:
    reading = ''
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if entries and not any(entry.CRC for entry in entries):
                _warn_without_checksums(file)
                return None
            for entry in entries:
                reading = entry.filename
                with archive.open(entry) as content:
                    while content.read(_PIECE):
                        pass  # the last read compares the checksum
                reading = ''
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        what = f'the checksum of {reading} is not that of its content' if reading else 'its zip directory is not whole'
        return f'it is damaged or incomplete: {what}'
    return None


def _safetensors_damage(file: Path, size: int) -> str | None:
    """The format has no checksums: its header must be readable and must describe exactly the bytes that follow."""
    try:
        with open(file, 'rb') as opened:
            length = int.from_bytes(opened.read(8), 'little')
            header = json.loads(opened.read(length)) if length <= size else {}
        end = max((entry['data_offsets'][1] for name, entry in header.items() if name != '__metadata__'), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return 'it is damaged: its header cannot be read'
    if 8 + length + end != size:
        return f'it is incomplete or damaged: its header describes {8 + length + end:,} bytes, it has {size:,}'
    return None


def _warn_without_checksums(file: Path) -> None:
    print_log(
        f'{file}: its format has no checksums, so that damage would not be found; loading and saving it once with '
        'PyTorch 1.6 or later adds them.',
        'current',
        WARNING,
    )
