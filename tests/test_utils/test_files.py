"""Files are written atomically, and a failure names the file and its remedy."""

import errno
import os

import pytest

from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.files import atomic_directory, atomic_write, sync_directory, write_bytes, write_text


def test_the_file_has_the_content_and_nothing_else_is_left(tmp_path):
    path = write_text(tmp_path / 'new/directory/report.txt', 'ä ± ✓\n')
    assert path.read_bytes() == 'ä ± ✓\n'.encode()
    write_bytes(path, b'second')
    assert path.read_bytes() == b'second' and os.listdir(path.parent) == ['report.txt']


def test_a_block_that_fails_leaves_the_earlier_file(tmp_path):
    path = write_text(tmp_path / 'record.json', 'first')
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text('half')
        assert path.read_text() == 'first'
        raise RuntimeError
    assert path.read_text() == 'first' and os.listdir(tmp_path) == ['record.json']


@pytest.mark.parametrize('call', ['os.fsync', 'os.replace'])
def test_a_full_disk_is_one_line_and_leaves_no_temporary_file(tmp_path, monkeypatch, call):
    def fail(*args):
        raise OSError(28, 'No space left on device')

    path = write_text(tmp_path / 'record.json', 'first')
    monkeypatch.setattr(call, fail)
    with pytest.raises(UserError, match=r'record\.json: cannot be written \(No space left on device\); make room'):
        write_text(path, 'second')
    assert path.read_text() == 'first' and os.listdir(tmp_path) == ['record.json']


def test_a_directory_that_cannot_be_created_is_one_line(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'file/below: cannot be written \(File exists\); choose another --out'):
        write_text(tmp_path / 'file/below', 'text', remedy='choose another --out')


def test_what_a_kill_left_behind_is_overwritten(tmp_path):
    (tmp_path / '.record.json.tmp').write_text('a part of a longer text')
    assert write_text(tmp_path / 'record.json', 'whole').read_text() == 'whole'
    assert os.listdir(tmp_path) == ['record.json']


def failing(error: OSError):
    def call(*args, **options):
        raise error

    return call


@pytest.mark.parametrize('call, number, raised', [
    ('os.open', errno.EACCES, False),
    ('os.fsync', errno.EINVAL, False),
    ('os.fsync', errno.EIO, True),
])  # fmt: skip
def test_a_directory_that_cannot_be_synchronised_is_no_error_but_a_broken_disk_is(
    tmp_path, monkeypatch, call, number, raised
):
    opened = len(os.listdir('/proc/self/fd'))
    with monkeypatch.context() as patch:
        patch.setattr(call, failing(OSError(number, 'no')))
        if raised:
            with pytest.raises(OSError, match='no'):
                sync_directory(tmp_path)
        else:
            sync_directory(tmp_path)
    assert len(os.listdir('/proc/self/fd')) == opened


def test_a_atomic_directory_is_whole_or_not_there(tmp_path, monkeypatch):
    out = tmp_path / 'out'
    monkeypatch.setattr(os, 'rename', failing(OSError(errno.ENOSPC, 'No space left on device')))
    with (
        pytest.raises(UserError, match=r'out: cannot be written \(No space left on device\); make room'),
        atomic_directory(out) as temporary,
    ):
        (temporary / 'a').mkdir()
        (temporary / 'a/b').write_text('c')
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    with atomic_directory(out) as temporary:
        (temporary / 'a').mkdir()
        (temporary / 'a/b').write_text('c')
    assert (out / 'a/b').read_text() == 'c' and os.listdir(tmp_path) == ['out']
    with pytest.raises(UserError, match='out: exists; remove it'), atomic_directory(out):
        pass
