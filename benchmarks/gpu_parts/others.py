"""The tests that need a GPU, the time of the check for NaN and Inf, and the benchmark on a real network."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

from ftsgd_plugin.records import find_records, read_record

from .networks import ROOT

REAL_WEIGHTS, REAL_DATA = 'data/weights/dinov2-vit-s14.safetensors', 'data/elpv'
REAL_OUT = 'work_dirs/real224'
REAL_MINUTES = 1.0  # after which no run is started: one takes up to a minute


class Unfinished(Exception):
    """A row that the next call continues; no failure."""


def rows_of_tests(first_only: bool) -> dict[str, Callable[[], dict]]:
    """One row per file of tests with the mark ``gpu``; ``first_only``: ``tests/test_gpu.py`` alone."""
    files = [ROOT / 'tests/test_gpu.py']
    if not first_only:
        files += [file for file in sorted(ROOT.glob('tests/*/test_*.py')) if 'pytest.mark.gpu' in file.read_text()]
    return {str(file.relative_to(ROOT)): partial(_test, file, needed=not first_only) for file in files}


class _Outcomes(Counter):
    """A pytest plugin: how many tests passed, failed and were skipped, and the names of those that failed."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == 'call' or report.outcome != 'passed':
            self[report.outcome] += 1
            if report.failed:
                self.failed.append(report.nodeid)


def _test(file: Path, needed: bool) -> dict:
    """Run the tests of a file that need a GPU; ``needed``: at least one must pass."""
    import pytest

    outcomes = _Outcomes()
    options = ['-q', '-m', 'gpu', '-p', 'no:cacheprovider', '-p', 'no:xdist', '--rootdir', str(ROOT)]
    code = pytest.main([*options, '-c', str(ROOT / 'pyproject.toml'), str(file)], plugins=[outcomes])
    if code != pytest.ExitCode.OK or (needed and not outcomes['passed']):
        raise RuntimeError(
            f'pytest ends with {code}, {dict(outcomes)}: {", ".join(outcomes.failed) or "no test failed"}'
        )
    return dict(passed=outcomes['passed'], skipped=outcomes['skipped'])


def finite_rows(models: dict[str, str], batch: int, pairs: int, device: str) -> dict[str, Callable[[], dict]]:
    """Rows of ``benchmarks/finite_updates.py`` for each network: its name -> timm's name of a ViT."""
    return {
        f'{name}, SGD{", fused" if fused else ""}': partial(_finite, model, batch, pairs, fused, device)
        for name, model in models.items()
        for fused in (False, True)
    }


def _finite(model: str, batch: int, pairs: int, fused: bool, device: str) -> dict:
    from finite_updates import measure

    added, step = measure(model, batch, pairs, fused, device)
    return dict(batch=batch, pairs=pairs, step_ms=step, added_ms=added)


def real_rows(run: bool, out: Path) -> dict[str, Callable[[], dict]]:
    """The stages of ``benchmarks/real_model.py`` that are not done; ``run=False`` reads the command line only."""
    return {'DINOv2 ViT-S/14 on ELPV, 224 px': partial(_real, run, out)}


def _real(run: bool, out: Path) -> dict:
    import real_model

    options = ['--image-size', '224', '--device', 'cuda', '--tf32', '--jobs', '16', '--minutes', str(REAL_MINUTES)]
    command = [str(ROOT / 'benchmarks/real_model.py'), 'run', *options]
    command += ['--weights', REAL_WEIGHTS, '--data', REAL_DATA, '--out', REAL_OUT, '--page', str(out / 'real_model.md')]
    with mock.patch.object(sys, 'argv', command):
        real_model.parse_args()  # ends the program if an option has gone
    missing = [path for path in (REAL_WEIGHTS, REAL_DATA) if not (ROOT / path).exists()]
    if missing:
        return dict(left_out=f'{", ".join(missing)} not on this machine')
    if not run:
        return dict(left_out='a dry run trains no real network')
    start = time.monotonic()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    if time.monotonic() - start > 60 * REAL_MINUTES:
        raise Unfinished('runs are left')
    states = Counter(read_record(path).status for path in find_records([ROOT / REAL_OUT / 'runs']))
    return dict(runs=dict(states), page='real_model.md')
