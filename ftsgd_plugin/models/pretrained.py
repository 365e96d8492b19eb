"""Pretrained weights from a hub or a file, verified tensor by tensor.

timm and open_clip load the tensors that they find and do not report the rest. Here every tensor of the backbone must be
in the file, with its shape; otherwise the run stops with one line. All pickles load with ``weights_only``.
"""

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

from ..checkpoint.compatibility import Misfit, misfits, summarise
from ..checkpoint.integrity import damage
from ..checkpoint.io import is_torchscript, why_unreadable
from ..layers import unwrap_state_dict
from ..utils.errors import UserError, one_line
from ..utils.files import sha256


def read_tensors(path: Path, expected: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a weight file: safetensors, a ``torch.save`` file or a TorchScript archive.

    Args:
        path: The file. ``.safetensors`` is known by its suffix, the others by their content.
        expected: Description of the right file, for the error message.

    Returns:
        dict: Name -> tensor on the CPU, from a nested ``state_dict`` or ``model`` entry if there is one.

    Raises:
        UserError: The file is truncated, of another kind, or does not hold tensors.
    """
    if reason := damage(path):
        raise UserError(f'{path}: cannot be read ({reason}); expected {expected}.')
    try:
        if is_torchscript(path):
            found = dict(torch.jit.load(str(path), map_location='cpu').state_dict())
        elif path.suffix == '.safetensors':
            found = load_file(path, device='cpu')
        else:
            found = torch.load(path, map_location='cpu', weights_only=True)
    except UserError:
        raise
    except Exception as error:
        reason = why_unreadable(error, path)
        raise UserError(f'{path}: cannot be read ({reason}); expected {expected}.') from error
    for key in ('state_dict', 'model'):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)} if found else {}
    if not tensors:
        raise UserError(f'{path}: holds no tensors by name; expected {expected}.')
    return unwrap_state_dict(tensors)


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path, expected: str) -> None:
    """Copy ``tensors`` into ``model`` if every name and every shape is equal.

    Raises:
        UserError: One differs; nothing was copied.
    """
    found = misfits(model, tensors)
    if found:
        raise UserError(f'{path}: does not fit: {summarise(found)}; expected {expected}.')
    model.load_state_dict(tensors, strict=True)


class _ExactCopies(TorchFunctionMode):
    """Watch a loader that copies into parameters one by one: refuse broadcasting, and note what was filled."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(param): name for name, param in model.named_parameters()}
        self.filled: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ == 'copy_' and id(args[0]) in self.names:
            name, shape, source = self.names[id(args[0])], tuple(args[0].shape), tuple(args[1].shape)
            if shape != source:
                raise UserError(f'{name} is {source} instead of {shape}')
            self.filled.add(name)
        return func(*args, **(kwargs or {}))


def fill_from_npz(model: nn.Module, load: Callable[[str], None], path: Path, expected: str) -> None:
    """Fill ``model`` from a NumPy archive with the library's loader, checking every copy.

    Args:
        model: The model.
        load: The library's loader, called with the path.
        path: ``.npz`` file.
        expected: Description of the right file, for the error message.

    Raises:
        UserError: The archive is truncated or of another model, lacks an array, or an array has the wrong shape.
    """
    copies = _ExactCopies(model)
    try:
        with copies:
            load(str(path))
    except UserError as error:
        raise UserError(f'{path}: does not fit: {error}; expected {expected}.') from None
    except Exception as error:
        reason = one_line(error, first=True).strip('"\'')
        raise UserError(f'{path}: cannot be read ({reason}); expected {expected}.') from error
    own = {name: tuple(param.shape) for name, param in model.named_parameters()}
    missing = [Misfit(name, None, shape) for name, shape in own.items() if name not in copies.filled]
    if missing:
        raise UserError(f'{path}: does not fit: {summarise(missing)}; expected {expected}.')


def local_file(path: str, expected: str) -> Path:
    """The file that ``pretrained='...'`` names.

    Raises:
        UserError: It does not exist.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f'pretrained={path!r}: no such file; expected {expected}.')
    return file


class HubError(UserError):
    """A weight file is not in the cache, and its hub cannot be reached."""


@dataclass(frozen=True)
class HubFile:
    """A weight file on a hub.

    Attributes:
        name: The model's name, for messages.
        expected: Description of the file and its address, for messages.
        download: Called with ``local_only``; returns the path or raises.
        command: What downloads it on a machine that reaches the hub.
        address: URL of the file, if it is not on the Hugging Face hub.
    """

    name: str
    expected: str
    download: Callable[[bool], str | os.PathLike]
    command: str
    address: str | None = None

    @property
    def _remedy(self) -> str:
        return f'download {self.expected} on a connected machine and set pretrained to its path, or pretrained=False'

    def find(self) -> Path | None:
        """The file in the hub's cache; ``None`` if it is missing but the hub answers.

        Raises:
            HubError: It is not in the cache, and the hub cannot be reached.
        """
        try:
            return Path(self.download(True))
        except Exception:  # not in the cache; hubs raise many kinds
            pass
        if not hub_answers(self.address):
            raise HubError(
                f'pretrained=True: {self.name} is not in the cache and its hub cannot be reached; {self._remedy}.'
            )
        return None

    def fetch(self) -> Path:
        """Get the file: from the hub's cache, else from the hub. Fail at once if it cannot be reached.

        Raises:
            UserError: The file is not in the cache, and the hub cannot be reached or refuses.
        """
        if (path := self.find()) is not None:
            return path
        try:
            print_log(f'downloading {self.name}', logger='current')
            return Path(self.download(False))
        except Exception as error:
            reason = one_line(error, limit=200)
            raise UserError(f'pretrained=True: {self.name} cannot be downloaded ({reason}); {self._remedy}.') from error


def hub_answers(address: str | None = None, seconds: float = 3.0) -> bool:
    """Whether an address accepts connections; through a proxy this is assumed.

    Args:
        address: Default: the Hugging Face endpoint. With ``HF_HUB_OFFLINE`` nothing is asked and no hub answers.
        seconds: Time to wait.
    """
    if os.environ.get('HF_HUB_OFFLINE', '0').upper() in ('1', 'TRUE', 'YES', 'ON'):
        return False
    if any(os.environ.get(key) for key in ('https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY')):
        return True
    endpoint = urlparse(address or os.environ.get('HF_ENDPOINT', 'https://huggingface.co'))
    try:
        with socket.create_connection((endpoint.hostname, endpoint.port or 443), timeout=seconds):
            return True
    except OSError:
        return False


def report_filled(backbone: nn.Module, name: str, path: Path) -> None:
    """Log which file filled the backbone, its SHA-256, and the number of tensors and parameters.

    Raises:
        UserError: The file is in a Hugging Face cache, which names large files by their SHA-256, and has another.
    """
    digest, stored = sha256(path), path.resolve()
    if stored.parent.name == 'blobs' and re.fullmatch('[0-9a-f]{64}', stored.name) and stored.name != digest:
        raise UserError(f'{stored}: is damaged: its SHA-256 is {digest}; remove it to download it again.')
    parameters = list(backbone.parameters())
    count = sum(param.numel() for param in parameters)
    print_log(
        f'{name}: all {len(parameters)} tensors ({count:,} parameters) filled from {path}, SHA-256 {digest}',
        logger='current',
    )
