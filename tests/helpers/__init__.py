"""What several test files share: the checkout, processes, ports."""

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300  # seconds
_names = itertools.count()


def unique_name() -> str:
    """A name that no other run of this process has: MMEngine keeps loggers and visualizers by it."""
    return f'test{os.getpid()}_{next(_names)}'


def process_environment(**added) -> dict[str, str]:
    """The variables of a child process: this process's, one thread, and those that are added."""
    return {
        **os.environ,
        'PYTHON': sys.executable,
        'OMP_NUM_THREADS': '1',
        **{name: str(value) for name, value in added.items()},
    }


def run_process(*command, cwd, **environment) -> subprocess.CompletedProcess:
    """Run a command with this interpreter and one thread; its output is captured as text.

    A Python program that need not start cold takes seconds less with the fixture ``run_forked``.
    """
    environment = process_environment(**environment)
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )


def free_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])
