"""The launcher's last line."""

import signal
import time

import pytest


class NetworkError(Exception):
    """The class that newer versions of torch raise."""


@pytest.mark.parametrize('error', [NetworkError, RuntimeError])
def test_processes_that_cannot_meet_are_one_line(monkeypatch, run_tool, error):
    import torch.distributed.run

    monkeypatch.setattr(torch.distributed, 'DistNetworkError', NetworkError, raising=False)
    if error is RuntimeError:
        monkeypatch.delattr(torch.distributed, 'DistNetworkError')

    def refuse():
        raise error('address already in use\nC++ trace')

    monkeypatch.setattr(torch.distributed.run, 'main', refuse)
    code, err = run_tool('torchrun')
    assert code == 2 and err.count('\n') == 1
    assert err.startswith('error: MASTER_ADDR, PORT: the processes cannot meet there (address already in use)')


@pytest.mark.parametrize(
    'exitcode, code, line',
    [
        (2, 2, None),
        (143, 143, None),  # stopped by a signal: rank 0 has said so
        (
            -9,
            2,
            'rank 1 (process 77) was killed by signal 9 (SIGKILL), usually because memory ran out; start ',
        ),
        (
            -11,
            2,
            'rank 1 (process 77) was killed by signal 11 (SIGSEGV); start the same command again, ',
        ),
    ],
)
def test_a_rank_that_ended_is_at_most_one_line(monkeypatch, run_tool, exitcode, code, line):
    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def fail():
        raise ChildFailedError('train.py', {1: ProcessFailure(1, 77, exitcode, 'no file')})

    monkeypatch.setattr(torch.distributed.run, 'main', fail)
    found, err = run_tool('torchrun')
    assert found == code and err.count('\n') == (line is not None)
    assert line is None or err.startswith(f'error: {line}')


@pytest.mark.parametrize('number, code', [('SIGTERM', 143), ('SIGUSR1', 138)])
def test_the_launcher_passes_a_signal_on_and_gives_the_ranks_time_to_save(monkeypatch, run_tool, number, code):
    """torchrun itself would die of SIGUSR1, and kill the ranks after 30 s."""
    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing import api

    patience = []
    monkeypatch.setattr(api.PContext, 'close', lambda self, death_sig, timeout: patience.append((death_sig, timeout)))
    earlier = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1)}

    def wait_for_the_signal():
        signal.signal(signal.SIGTERM, api._terminate_process_handler)  # as torchrun does
        try:
            signal.raise_signal(getattr(signal, number))
            time.sleep(0)
        except api.SignalException as stopped:
            api.PContext.close(None, stopped.sigval)
            raise

    monkeypatch.setattr(torch.distributed.run, 'main', wait_for_the_signal)
    try:
        assert run_tool('torchrun') == (code, '')
    finally:
        for one, handler in earlier.items():
            signal.signal(one, handler)
    assert patience == [(signal.SIGTERM, 120)]
