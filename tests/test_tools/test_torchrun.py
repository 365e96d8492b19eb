"""The launcher's last line."""

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
