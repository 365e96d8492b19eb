"""``gpu.md`` from ``gpu.json``: a cell without a record says "unmeasured"."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import jinja2

from ftsgd_plugin.paper.costs import TIME_RATIOS, memory_ratios
from ftsgd_plugin.utils.files import write_text
from ftsgd_plugin.utils.format import format_bytes

from .memory import IN_BACKWARD, PAPERS, PAPERS_BATCH
from .records import FILE, read_records
from .table import FULL, parts

UNMEASURED, NONE = 'unmeasured', '–'
# Images per second: 40 % of an H100's peak for the ViTs and 30 % for ConvNeXt-B, by timm's GMACs.
GOALS = {'vit-b16': 3750, 'vit-l14': 813, 'convnext-b': 3200}
Rows = dict[str, dict]
Lines = Iterator[Sequence[str]]


def write_page(directory: Path) -> Path:
    """Write ``gpu.md`` beside ``gpu.json``."""
    return write_text(directory / 'gpu.md', page(read_records(directory / FILE)['parts']))


def page(records: dict[str, dict]) -> str:
    """The page.

    Args:
        records: Part -> its record; parts without one are unmeasured.
    """
    known = {part.name: part for part in parts(FULL, Path())}

    def rows(part: str) -> Rows:
        return records.get(part, {}).get('rows', {})

    def names(part: str) -> Iterable[str]:
        return known[part].rows()

    speed, memory = [], []
    for name, goal in GOALS.items():
        header = (name, 'batch', 'images/s', f'of {goal:,}', 'MFU', 'ms per step', 'first step, s', 'allocated')
        pair = (f'speed-{name}', f'compiled-{name}')
        speed.append(_table(header, (line for part in pair for line in _speed(names(part), rows(part), goal))))
    for name in PAPERS_BATCH:
        header = (name, 'planned', 'allocated', 'planned / allocated', 'CUDA adds', 'reserved', 'outside')
        memory.append(_table((*header, 'AdamW / method', 'ms per step'), _memory(rows(f'memory-{name}'))))
    template = Path(__file__).with_name('gpu.md.j2').read_text('utf-8')
    return jinja2.Template(template, keep_trailing_newline=True, undefined=jinja2.StrictUndefined).render(
        batch=FULL.batch,
        state=_table(('part', 'device', 'date', 'versions', 'state'), _state(known, records)).rstrip('\n'),
        speed=speed,
        memory=memory,
        ratios=_table(('network', 'batch', 'method', 'AdamW / method', 'paper'), _ratios(rows)),
        in_backward=_table(
            ('network', 'method', 'planned', 'allocated', 'AdamW / method'), _in_backward(rows('in-backward'))
        ),
        unfreezing=_table(
            ('network', 'AdamW, ms', 'gradual unfreezing, ms', 'ratio', 'paper'),
            _unfreezing(names('unfreezing'), rows('unfreezing')),
        ),
        finite=_table(
            ('network and optimizer', 'step without the check, ms', 'difference, ms', 'share'),
            _finite(names('finite'), rows('finite')),
        ),
        tests=_table(('file', 'passed', 'skipped'), _tests(rows('tests'))),
        real=_table(('network and data', 'runs'), _real(names('real'), rows('real'))),
    )


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return '\n'.join(f'| {" | ".join(line)} |' for line in (header, ['---'] * len(header), *lines)) + '\n'


def _cells(row: dict | None, *texts: Callable[[dict], str]) -> list[str]:
    """A cell for each text: "unmeasured" without a row."""
    if row is None:
        return [UNMEASURED] * len(texts)
    if 'left_out' in row:
        return [f'left out: {row["left_out"]}', *[NONE] * (len(texts) - 1)]
    return [text(row) for text in texts]


def _state(known: dict, records: dict[str, dict]) -> Lines:
    for name in known:
        record = records.get(name)
        if record is None:
            yield name, *[UNMEASURED] * 4
            continue
        versions = record['environment']
        failures = '; '.join(f'{row}: {line}' for row, line in record['failures'].items())
        state = 'finished' if record['finished'] else f'not finished, {len(record["rows"])} rows'
        yield (
            name,
            versions['device'],
            record['date'],
            ', '.join(f'{one} {versions[one]}' for one in ('python', 'torch', 'cuda', 'timm') if versions.get(one)),
            f'{state}, {record["seconds"]:.0f} s{f" ({failures})" if failures else ""}',
        )


def _speed(names: Iterable[str], rows: Rows, goal: int) -> Lines:
    for name in names:
        yield (
            name,
            *_cells(
                rows.get(name),
                lambda one: str(one['batch']),
                lambda one: f'{one["images_per_second"]:,.0f}',
                lambda one: f'{one["images_per_second"] / goal:.2f}',
                lambda one: NONE if one['mfu'] is None else f'{100 * one["mfu"]:.1f} %',
                lambda one: _ms(one['step_seconds']),
                lambda one: f'{one["first_step_seconds"]:.1f}',
                lambda one: _bytes(one['allocated']),
            ),
        )


def _memory(rows: Rows) -> Lines:
    every = {name: row for name, row in rows.items() if ', batch ' not in name}
    for name, row in every.items() or [('every method', None)]:
        yield (
            name,
            *_cells(
                row,
                lambda one: _bytes(one['planned']),
                lambda one: _bytes(one['allocated']),
                lambda one: f'{one["planned"] / one["allocated"]:.3f}',
                lambda one: _bytes(one['allocated'] - one['planned']),
                lambda one: _bytes(one['reserved']),
                lambda one: _bytes(one['outside']),
                partial(_over, every.get('adamw')),
                lambda one: _ms(median(one['step_seconds'])),
            ),
        )


def _ratios(rows: Callable[[str], Rows]) -> Lines:
    for network, batch in PAPERS_BATCH.items():
        found = rows(f'memory-{network}')
        adamw = found.get(f'adamw, batch {batch}')
        for method in PAPERS[1:]:
            ratio = _cells(found.get(f'{method}, batch {batch}'), partial(_over, adamw))
            yield network, str(batch), method, *ratio, f'{memory_ratios(network)[method]:.2f}'


def _in_backward(rows: Rows) -> Lines:
    for network in PAPERS_BATCH:
        for method in IN_BACKWARD:
            yield (
                network,
                method,
                *_cells(
                    rows.get(f'{network}, {method}'),
                    lambda one: _bytes(one['planned']),
                    lambda one: _bytes(one['allocated']),
                    partial(_over, rows.get(f'{network}, adamw')),
                ),
            )


def _unfreezing(names: Iterable[str], rows: Rows) -> Lines:
    for name in names:
        cells = _cells(
            rows.get(name),
            lambda one: _ms(one['seconds_per_step']['adamw']),
            lambda one: _ms(one['seconds_per_step']['gradual-unfreezing']),
            lambda one: f'{one["over_adamw"]:.2f}',
        )
        yield name, *cells, f'{TIME_RATIOS["gradual-unfreezing"]:.2f}'


def _finite(names: Iterable[str], rows: Rows) -> Lines:
    for name in names:
        yield (
            name,
            *_cells(
                rows.get(name),
                lambda one: f'{one["step_ms"]:.1f}',
                lambda one: f'{one["added_ms"]:.2f}',
                lambda one: f'{100 * one["added_ms"] / one["step_ms"]:.2f} %',
            ),
        )


def _tests(rows: Rows) -> Lines:
    for name, row in rows.items() or [('every file', None)]:
        yield name, *_cells(row, lambda one: str(one['passed']), lambda one: str(one['skipped']))


def _real(names: Iterable[str], rows: Rows) -> Lines:
    for name in names:
        yield (
            name,
            *_cells(rows.get(name), lambda one: ', '.join(f'{count} {state}' for state, count in one['runs'].items())),
        )


def _over(adamw: dict | None, row: dict) -> str:
    return f'{adamw["allocated"] / row["allocated"]:.2f}' if adamw and 'allocated' in adamw else UNMEASURED


def _bytes(size: int | None) -> str:
    return NONE if size is None else format_bytes(size)


def _ms(seconds: float) -> str:
    return f'{1000 * seconds:.1f}'
