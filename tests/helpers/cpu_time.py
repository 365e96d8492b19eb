"""A pytest plugin: print the tests that take most CPU time, and fail those that take too much.

CPU time does not depend on what else the machine runs. It is that of the test process and all its descendants, so
forked children, data workers and Ray count. Setting up a fixture that tests share is counted for the fixture, under the
same limit, not for the test that happens to request it first. The imports of the stack are made before the first test,
and shared with the children of :mod:`helpers.forked`.
"""

import contextlib
import importlib
import os
from pathlib import Path

import psutil
import pytest

from helpers.forked import STACK, fork_server

SHOWN = 20
_TEST, _FIXTURE = 'cpu_seconds', 'fixture_cpu_seconds'


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--cpu-limit',
        type=float,
        metavar='SECONDS',
        help=f'print the {SHOWN} largest CPU times; fail a test or shared fixture above SECONDS unless it is slow',
    )


def pytest_configure(config: pytest.Config) -> None:
    limit = config.getoption('cpu_limit')
    if limit is not None:
        config.pluginmanager.register(CpuTime(limit))


def tree_seconds() -> float:
    """CPU seconds of this process and of its descendants, whether they live or have ended."""
    total, waiting = sum(os.times()[:4]), _children(os.getpid())
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
            waiting += _children(pid)
    return total


def _children(pid: int) -> list[int]:
    """Process numbers of the children; psutil would read every process of the machine, before and after every test."""
    found = []
    for path in Path(f'/proc/{pid}/task').glob('*/children'):
        with contextlib.suppress(OSError):  # the thread has ended
            found += map(int, path.read_text().split())
    return found


class CpuTime:
    """Measures every test and every shared fixture; the results travel with the test's teardown report."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._start = self._in_fixtures = 0.0

    def pytest_collection_finish(self) -> None:
        for name in STACK:
            importlib.import_module(name)
        fork_server()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        self._start, self._in_fixtures = tree_seconds(), 0.0
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request: pytest.FixtureRequest):
        if fixturedef.scope == 'function':
            return (yield)
        start, before = tree_seconds(), self._in_fixtures
        try:
            return (yield)
        finally:
            inner = self._in_fixtures - before  # fixtures that this one has requested by name
            spent = max(0.0, tree_seconds() - start - inner)
            self._in_fixtures += spent
            request._pyfuncitem.user_properties.append((_FIXTURE, [fixturedef.argname, spent]))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        if call.when == 'teardown':
            spent = max(0.0, tree_seconds() - self._start - self._in_fixtures)
            item.user_properties.append((_TEST, [item.nodeid, spent]))
        report = yield
        if call.when == 'teardown' and report.passed and not item.get_closest_marker('slow'):
            over = [f'{name}: {spent:.1f} s' for name, spent in _measured(report) if spent > self.limit]
            if over:
                report.outcome = 'failed'
                report.longrepr = (
                    f'{", ".join(over)} of CPU time; the limit is {self.limit:g} s. Make it smaller, or mark it slow.'
                )
        return report

    def pytest_terminal_summary(self, terminalreporter) -> None:
        found = [
            entry
            for reports in terminalreporter.stats.values()
            for report in reports
            if getattr(report, 'when', None) == 'teardown'
            for entry in _measured(report)
        ]
        terminalreporter.section(f'{SHOWN} largest CPU times of {sum(spent for _, spent in found):.0f} s')
        for name, spent in sorted(found, key=lambda entry: -entry[1])[:SHOWN]:
            terminalreporter.write_line(f'{spent:6.1f} s  {name}')


def _measured(report: pytest.TestReport) -> list[tuple[str, float]]:
    """``(name, CPU seconds)`` of the test and of the shared fixtures that were set up for it."""
    return [
        (f'fixture {value[0]} of {report.nodeid}' if key == _FIXTURE else value[0], value[1])
        for key, value in report.user_properties
        if key in (_FIXTURE, _TEST)
    ]
