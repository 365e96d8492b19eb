"""How a program ends in this process: exit codes, a traceback for a bug, a standard output that nobody reads."""

import contextlib
import errno
import os

import pytest

from ftsgd_plugin.utils.cli import DEBUG, one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.write_errors import write_failure


@contextlib.contextmanager
def closed_pipe():
    """The standard output as in ``| head`` after ``head`` has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, 'w') as out, contextlib.redirect_stdout(out):
        yield
        out.flush()  # what was left to write has gone nowhere, or the interpreter would fail at its end


def ended(main) -> int:
    with pytest.raises(SystemExit) as end:
        one_line_errors(main)()
    return end.value.code


def fail(error: Exception) -> None:
    print('text')
    raise error


def test_a_reader_that_has_ended_is_no_error(capsys):
    with closed_pipe():
        assert ended(lambda: print('text')) == 141
    assert capsys.readouterr().err == ''


def test_an_error_is_told_although_nobody_reads_the_output(capsys):
    with closed_pipe():
        assert ended(lambda: fail(UserError('a.py: wrong; correct it.'))) == 2
    assert capsys.readouterr().err == 'error: a.py: wrong; correct it.\n'


@pytest.mark.parametrize('error', [BrokenPipeError(errno.EPIPE, 'another pipe'), ZeroDivisionError('a bug')])
def test_what_no_user_can_fix_keeps_its_traceback(error, capsys):
    with pytest.raises(type(error)) as raised:
        one_line_errors(lambda: fail(error))()
    assert raised.value is error and capsys.readouterr().err == ''


def test_the_traceback_of_a_user_error_is_there_for_those_who_ask(monkeypatch, capsys):
    monkeypatch.setenv(DEBUG, '1')
    assert ended(lambda: fail(UserError('a.py: wrong; correct it.'))) == 2
    err = capsys.readouterr().err
    assert err.startswith('Traceback') and err.endswith('\nerror: a.py: wrong; correct it.\n')


def test_a_failed_write_without_a_name_is_that_of_a_file_as_standard_output(tmp_path):
    full = OSError(errno.ENOSPC, 'No space left on device')
    with closed_pipe():
        assert write_failure(full) is None  # a pipe is never full
    with open(tmp_path / 'out.txt', 'w') as out, contextlib.redirect_stdout(out):
        assert write_failure(full).startswith('standard output: cannot be written (No space left on device)')
