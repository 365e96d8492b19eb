"""Where faults are tried: a directory with the demo's data, programs as children, and what an ending must look like."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests'))  # the helpers and the case tables of the tests

SECONDS = 300  # for one program
# Three epochs of six iterations with dropout, so that a lost or repeated random draw changes the weights.
SMALL = (
    'model = dict(backbone=dict(drop_rate=0.1))\n'
    'train_cfg = dict(max_epochs=3)\n'
    'train_dataloader = dict(batch_size=4, num_workers={workers}, persistent_workers=False, dataset=dict(indices=24))\n'
    'val_dataloader = dict(batch_size=8, num_workers={workers}, persistent_workers=False)\n'
    'default_hooks = dict(logger=dict(interval=1))\n'
)
SMALL_VALIDATION = ('val_dataloader.dataset.datasets.0.indices=16', 'val_dataloader.dataset.datasets.1.indices=16')
EPOCHS, PER_EPOCH = 3, 6


@dataclass(frozen=True)
class Outcome:
    """What came of one fault.

    Attributes:
        case: What was done.
        right: Whether the program did what it promises.
        detail: What it did instead.
    """

    case: str
    right: bool
    detail: str = ''


class Place:
    """A working directory with the digits, for programs of ``tools/``.

    Args:
        directory: An empty directory.
    """

    def __init__(self, directory: Path) -> None:
        from helpers import forked, trees

        self.directory, self._forked = directory, forked
        digits = trees.write_digits(directory / 'source')
        (directory / 'data').mkdir()
        (directory / 'data/digits').symlink_to(digits)
        forked.warm_up()

    def small_config(self, name: str, more: str = '', workers: int = 0) -> Path:
        """A config of three epochs of six iterations; ``more`` is appended."""
        from helpers.demo_run import write_child

        return write_child(self.directory, name, SMALL.format(workers=workers) + more)

    def fresh(self, name: str) -> Path:
        """A directory that does not exist yet."""
        shutil.rmtree(self.directory / name, ignore_errors=True)
        return self.directory / name

    def run(self, script: str | Path, *argv, **environment) -> subprocess.CompletedProcess:
        """Run a program to its end."""
        return self._forked.run_forked(script, *argv, cwd=self.directory, **environment)

    def train(self, config: Path, work_dir: Path, *words, **environment) -> subprocess.CompletedProcess:
        """Run ``tools/train.py``."""
        return self.run('tools/train.py', *train_words(config, work_dir, *words), **environment)

    @contextlib.contextmanager
    def started(self, script: str | Path, *argv, name: str, **environment) -> Iterator['Running']:
        """Start a program; it is ended when the block is left."""
        output = self.fresh(f'output_{name}')
        program = self._forked.start_forked(script, *argv, cwd=self.directory, output=output, **environment)
        try:
            yield Running(program, output)
        finally:
            if not program.has_ended():
                program.end()


class Running:
    """A program that runs.

    Args:
        program: As the tests' helper started it.
        output: Directory of its ``stdout`` and ``stderr``.
    """

    def __init__(self, program, output: Path) -> None:
        self.program, self.pid, self._output = program, program.pid, output

    def wait_until(self, is_due: Callable[[str], bool]) -> bool:
        """Wait until the output says something; whether it did before the program ended."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            ended = self.program.has_ended()
            if is_due(self.text()):
                return True
            if ended:
                return False
            time.sleep(0.005)
        return False

    def text(self) -> str:
        """Everything written so far."""
        return ''.join(path.read_text(errors='replace') for path in sorted(self._output.glob('std*')))

    def send(self, number: int) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def result(self) -> subprocess.CompletedProcess:
        """Wait for the end."""
        return self.program.result(SECONDS)


def train_words(config: Path, work_dir: Path, *words) -> list:
    """Arguments of ``tools/train.py``; ``words`` may hold further options."""
    return [config, '--work-dir', work_dir, *words, '--cfg-options', *SMALL_VALIDATION]


def iterations(text: str) -> int:
    """How many training iterations an output reports."""
    return text.count('Epoch(train)')


def said(result: subprocess.CompletedProcess, code: int = 2, also: str = '') -> str:
    """What is wrong with the end of a program that should report one line and an exit code; empty if nothing is.

    Args:
        result: Of the program.
        code: The exit code that it should have.
        also: What the line must contain.
    """
    lines = lines_of(result, 'error: ')
    lines += [line for line in result.stderr.splitlines() if '.py: error: ' in line]  # argparse, below its usage
    if result.returncode != code:
        return f'exit code {result.returncode} instead of {code}: {last_line(result)}'
    if 'Traceback' in result.stderr:
        return f'traceback: {last_line(result)}'
    if len(lines) != 1:
        return f'{len(lines)} lines with "error: ": {last_line(result)}'
    return '' if also in lines[0] else f'{also!r} is not in: {lines[0]}'


def lines_of(result: subprocess.CompletedProcess, *begins: str) -> list[str]:
    """The lines on stderr that begin so; torch's handlers in C++ may write NULs before them."""
    return [line for line in result.stderr.replace('\0', '').splitlines() if line.startswith(begins)]


def last_line(result: subprocess.CompletedProcess) -> str:
    """The last line on stderr."""
    return (result.stderr.strip().splitlines() or ['(nothing on stderr)'])[-1][:300]


def training_state(path: Path) -> dict:
    """What must be equal in the last checkpoints of an interrupted and an uninterrupted run."""
    import torch

    content = torch.load(path, map_location='cpu', weights_only=True)
    position = {key: content['meta'][key] for key in ('epoch', 'iter')}
    optimizer = content['optimizer']['state']
    return dict(weights=content['state_dict'], optimizer=optimizer, lr=content['param_schedulers'], position=position)


def difference(found, expected, where: str = '') -> str:
    """Where two states differ first, or an empty string."""
    import torch

    if isinstance(expected, torch.Tensor):
        return '' if torch.equal(found, expected) else f'{where} differs'
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            return f'{where} has other keys'
        return next(filter(None, (difference(found[key], expected[key], f'{where}/{key}') for key in expected)), '')
    if isinstance(expected, (list, tuple)):
        pairs = enumerate(zip(found, expected))
        return next(filter(None, (difference(*pair, f'{where}/{i}') for i, pair in pairs)), '')
    return '' if found == expected else f'{where} differs'


def table_of(path: str) -> ModuleType:
    """A test module, for the tables of cases in it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
