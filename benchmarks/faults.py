"""Try faults on whole runs and count how often the promise was kept: the proof behind docs/faults.md.

    python benchmarks/faults.py                              # everything
    python benchmarks/faults.py --only kills signals         # some sections
    python benchmarks/faults.py --only configs --count 10    # the first 10 faults of a section

Programs run as child processes in a temporary directory, as a user starts them. What must hold: an interrupted run ends
with one line and, resumed, is bit-identical to one that nothing stopped; a mistake or a damaged file is one line and
exit code 2; no file runs code when it is read; a long run stays flat. Prints a Markdown table; what went wrong goes to
stderr, and to a file with ``--details``.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fault_cases import files, inputs, runs, soak
from fault_cases.place import Outcome, Place


class Section(NamedTuple):
    """A kind of faults.

    Attributes:
        title: For the table.
        try_faults: Yields an outcome for each of the first faults.
        least: How many faults a whole run must have tried.
        count: How many it tries at most (of the soak: iterations).
    """

    title: str
    try_faults: Callable[[Place, int], Iterator[Outcome]]
    least: int
    count: int = 1000


SECTIONS = {
    'kills': Section('kills, 8 of them in a checkpoint write', runs.kills, 20),
    'signals': Section('signals', runs.signals, 7),
    'deaths': Section('deaths of data workers and ranks', runs.deaths, 6),
    'checkpoints': Section('damaged checkpoints', files.checkpoints, 60),
    'malicious': Section('malicious files', files.malicious, 40),
    'full_disk': Section('full disk', files.full_disk, 12),
    'configs': Section('malformed configs', inputs.configs, 90),
    'tool_inputs': Section('malformed tool inputs', inputs.tool_inputs, 90),
    'data_sets': Section('malformed data sets', inputs.data_sets, 60),
    'soak': Section('soak of 3,000 iterations with every hook: memory, descriptors, log', soak.soak, 3, 3000),
}


def try_sections(
    names: list[str], directory: Path, count: int | None, report: Callable[[str], None]
) -> dict[str, list[Outcome]]:
    """Try the faults of some sections.

    Args:
        names: Keys of ``SECTIONS``.
        directory: An empty directory.
        count: The first so many faults of each section; ``None`` for all.
        report: Called with a line for each outcome.

    Returns:
        dict: Section -> outcomes.
    """
    place, outcomes = Place(directory), {}
    for name in names:
        section, outcomes[name], began = SECTIONS[name], [], time.monotonic()
        for outcome in section.try_faults(place, count or section.count):
            outcomes[name].append(outcome)
            verdict = 'right' if outcome.right else f'WRONG ({outcome.detail})'
            report(f'{time.monotonic() - began:6.0f} s  {name} {len(outcomes[name])}: {outcome.case}: {verdict}')
    return outcomes


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """The counts as a Markdown table."""
    lines = ['| faults | tried | right |', '|---|---|---|']
    for name, tried in outcomes.items():
        lines.append(f'| {SECTIONS[name].title} | {len(tried)} | {sum(outcome.right for outcome in tried)} |')
    return '\n'.join(lines)


def main() -> None:
    """Entry point of ``python benchmarks/faults.py``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=SECTIONS, metavar='SECTION', help=f'of: {", ".join(SECTIONS)}')
    parser.add_argument('--count', type=int, metavar='N', help='the first N faults of each section (default: all)')
    parser.add_argument(
        '--directory', type=Path, help='an empty directory to work in, which stays (default: temporary)'
    )
    parser.add_argument('--details', type=Path, metavar='FILE', help='file for a line about each fault')
    args = parser.parse_args()
    lines = []

    def report(line: str) -> None:
        lines.append(line)
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        directory = args.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        outcomes = try_sections(args.only or list(SECTIONS), directory.resolve(), args.count, report)
    if args.details:
        args.details.write_text('\n'.join(lines) + '\n')
    import torch

    print(table(outcomes))
    print(f'\n{date.today()}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}')
    wrong = [outcome for tried in outcomes.values() for outcome in tried if not outcome.right]
    few = [name for name, tried in outcomes.items() if args.count is None and len(tried) < SECTIONS[name].least]
    for name in few:
        print(f'{name}: fewer than the {SECTIONS[name].least} faults that belong to it', file=sys.stderr)
    sys.exit(1 if wrong or few else 0)


if __name__ == '__main__':
    main()
