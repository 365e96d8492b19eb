"""Files are written atomically, and a failure names the file and its remedy."""

import os

import pytest

from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.files import atomic_write, write_bytes, write_text


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
