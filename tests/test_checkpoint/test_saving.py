"""Saving on a disk that becomes full: the error is the disk's, not one of torch's writer."""

import builtins
import errno
import io

import pytest
import torch

from ftsgd_plugin.checkpoint.saving import save_content
from ftsgd_plugin.hooks.checkpoint import ATOMIC, _save
from ftsgd_plugin.utils.errors import UserError

CONTENT = {'state_dict': {'w': torch.zeros(2**16)}}


class NearlyFull(io.FileIO):
    """Has room for headers, not for a tensor, as a disk of which the last page is free."""

    def write(self, data) -> int:
        if len(data) > 2**12:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return super().write(data)


@pytest.fixture
def nearly_full(monkeypatch):
    original = builtins.open

    def on_this_disk(path, mode='r', *args, **kwargs):
        return NearlyFull(path, mode) if mode == 'wb' else original(path, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, 'open', on_this_disk)


def test_the_error_is_the_disks(nearly_full, tmp_path):
    with pytest.raises(RuntimeError, match='unexpected pos'), open(tmp_path / 'torchs.pth', 'wb') as file:
        torch.save(CONTENT, file)
    with pytest.raises(OSError, match='No space left'):
        save_content(CONTENT, tmp_path / 'ours.pth')


def test_a_checkpoint_is_one_line_and_the_earlier_one_stays(tmp_path, request):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'earlier')
    request.getfixturevalue('nearly_full')
    with pytest.raises(UserError, match=r'epoch_1\.pth: cannot be written \(No space left on device\); make room'):
        _save(CONTENT, str(path), backend_args=ATOMIC)
    assert path.read_bytes() == b'earlier' and list(tmp_path.iterdir()) == [path]


def test_what_is_saved_is_what_torch_saves(tmp_path):
    torch.save(CONTENT, buffer := io.BytesIO())
    save_content(CONTENT, tmp_path / 'whole.pth')
    assert (tmp_path / 'whole.pth').read_bytes() == buffer.getvalue()
