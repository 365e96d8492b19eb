"""What the demo on the solar cells shows: its table, its figure, and three sentences computed from the numbers."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..evaluation.selection import Z90
from ..paper.grids import format_rate
from ..paper.names import method_label
from ..profiling.gradients import GradientProfile
from ..records import RunRecord
from ..results.formats import pipe_table
from ..utils.metrics import ID_METRIC, OOD_METRIC, WORST_GROUP
from ..utils.plotting import COLOURS, DARK_GREY, GREY, ROLE_COLOURS, import_pyplot, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINE = 'sgd'
AUROC = 'ood/auroc'
COLUMNS = {  # of the table, in percent
    ID_METRIC: 'ID (%)',
    OOD_METRIC: 'OOD (%)',
    'id/auroc': 'AUROC ID',
    AUROC: 'AUROC OOD',
    WORST_GROUP: 'OOD worst group (%)',
}
DRAWN = {ID_METRIC: 'ID accuracy', OOD_METRIC: 'OOD accuracy', AUROC: 'OOD AUROC'}
_NOTHING = '\N{EN DASH}'


def result_table(records: Sequence[RunRecord]) -> str:
    """One row per run as a Markdown table.

    Args:
        records: Finished or diverged runs.
    """
    header = ['method', 'rate', *COLUMNS.values(), 'state bytes per parameter', 'seconds']
    rows = []
    for record in records:
        metrics = chosen(record)
        values = [f'{100 * metrics[key]:.1f}' if key in metrics else _NOTHING for key in COLUMNS]
        seconds = record.resources.get('seconds')
        row = [method_label(record.method), format_rate(record.lr) + ' (diverged)' * (record.status == 'diverged')]
        rows.append([*row, *values, state_bytes(record), _NOTHING if seconds is None else f'{seconds:.0f}'])
    return pipe_table(header, rows, left=1)


def chosen(record: RunRecord) -> Mapping[str, float]:
    """Metrics of the epoch that the ID data selects; none of a run that diverged."""
    return record.selected or {} if record.status == 'finished' else {}


def state_bytes(record: RunRecord) -> str:
    """Bytes of the optimizer's state per parameter of the network."""
    state, parameters = (record.resources.get(key) for key in ('state_bytes', 'parameters'))
    return _NOTHING if state is None or not parameters else f'{state / parameters:.1f}'


def sentences(profile: GradientProfile, records: Sequence[RunRecord], images: Mapping[str, int]) -> list[str]:
    """What was seen in distribution, what out of distribution, and what was not seen.

    Args:
        profile: Gradients before training.
        records: Runs of SGD and of others, one per method.
        images: Evaluated images by metric: ``id/accuracy`` and ``ood/accuracy``.
    """
    found = {record.method: chosen(record) for record in records}
    others = [method for method in found if method != BASELINE]
    return [
        _in_distribution(profile, found, others, images[ID_METRIC]),
        _out_of_distribution(found, others, images[OOD_METRIC]),
        _not_seen(found, images),
    ]


def _in_distribution(profile: GradientProfile, found: Mapping, others: Sequence[str], images: int) -> str:
    gradient = (
        f'Before training the gradient of the embedding layer is {profile.ratio:.2g} times that of the largest layer '
        f'between it and the head'
    )
    compared = [_Difference(found, method, ID_METRIC, images) for method in others]
    wanted = [profile.ratio > 1, *(one.ahead for one in compared)]
    if any(one.points is None for one in compared):
        verdict = 'the order is not known'
    elif all(wanted):
        clear = all(one.clear for one in compared)
        verdict = 'as the paper found' if clear else 'the order that the paper found, but not beyond chance'
    else:
        verdict = 'only in part what the paper found' if any(wanted) else 'not what the paper found'
    return f'{gradient}, and in distribution {_join(map(str, compared))}: {verdict}.'


def _out_of_distribution(found: Mapping, others: Sequence[str], images: int) -> str:
    accuracy, auroc = ([_Difference(found, method, key, images) for method in others] for key in (OOD_METRIC, AUROC))
    text = f'Out of distribution {_join(map(str, accuracy))}; by AUROC {_join(map(str, auroc))}'
    known = [(one, name) for name, group in (('accuracy', accuracy), ('AUROC', auroc)) for one in group
             if one.points is not None]  # fmt: skip
    if against := [f'{one.label} by {name}' for one, name in known if not one.ahead]:
        return f"{text}: this contradicts the paper's order, in which both are ahead ({', '.join(against)})."
    return f'{text}.' if len(known) < 2 * len(others) else f"{text}: the paper's order, by both."


def _not_seen(found: Mapping, images: Mapping[str, int]) -> str:
    noise = [f'{_noise([one.get(key) for one in found.values()], count):.1f}' for key, count in images.items()]
    return (
        'Not seen: other seeds, rates and sizes (this is one seed of each method, at the rate that the benchmark chose '
        'by ID accuracy, on small images; benchmarks/real_model_84px.md has three seeds), other networks and other '
        f'data; the choice of {images[ID_METRIC]} ID and {images[OOD_METRIC]} OOD test images alone moves a difference '
        f'by ± {noise[0]} and ± {noise[1]} points.'
    )


class _Difference:
    """A method minus SGD, in points, as text."""

    def __init__(self, found: Mapping[str, Mapping[str, float]], method: str, key: str, images: int) -> None:
        values = [found.get(name, {}).get(key) for name in (method, BASELINE)]
        self.label = method_label(method)
        self.points = None if None in values else round(100 * (values[0] - values[1]), 1)
        self.noise = _noise(values, images) if key != AUROC else 0.0  # that of a ranking has no such short formula

    @property
    def ahead(self) -> bool:
        return self.points is not None and self.points > 0

    @property
    def clear(self) -> bool:
        """Ahead by more than the choice of test images explains."""
        return self.ahead and self.points > self.noise

    def __str__(self) -> str:
        if self.points is None:
            return f'{self.label} cannot be compared with SGD (a run diverged)'
        size = f'{abs(self.points):.1f} points'
        if self.ahead:
            return f'{self.label} is {size} ahead of SGD' + ('' if self.clear else ' (may be chance)')
        return f'{self.label} is NOT ahead of SGD but ' + (f'{size} behind' if self.points else 'level with it')


def _noise(fractions: Sequence[float | None], images: int) -> float:
    """Half-width in points of the 90 % interval of a difference of two fractions of so many independent images."""
    known = [fraction for fraction in fractions if fraction is not None]
    variance = sum(p * (1 - p) for p in known) / len(known) if known else 0.25
    return 100 * Z90 * math.sqrt(2 * variance / images)


def _join(parts: Iterable[str]) -> str:
    *first, last = parts
    return f'{", ".join(first)} and {last}' if first else last


def draw_real_demo(
    profile: GradientProfile, records: Sequence[RunRecord], path: str | os.PathLike, title: str = ''
) -> None:
    """Draw the gradient of every layer beside the accuracies of each method; the file is written atomically.

    Args:
        profile: Gradients before training.
        records: One run per method.
        path: PNG file.
        title: Above the figure: the network and the data.
    """
    plt = import_pyplot()
    with plt.rc_context({'font.size': 12}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), width_ratios=(1, 1.15), layout='constrained')
        if title:
            figure.suptitle(title, fontsize=13)
        _draw_gradients(left, profile)
        _draw_accuracies(right, records)
        for axes in (left, right):
            style_axes(axes)
        save_figure(figure, path)


def _draw_gradients(axes: 'Axes', profile: GradientProfile) -> None:
    shown = [group for group in profile.groups if group.part in ('middle', 'head')]
    norms = [profile.embed, *(group.norm for group in shown)]
    colours = [ROLE_COLOURS['embed'], *(ROLE_COLOURS['head'] if one.part == 'head' else GREY for one in shown)]
    axes.bar(range(len(norms)), norms, 0.85, color=colours)
    axes.set_ylim(0, 1.12 * max(norms))
    axes.set_xlim(-0.8, len(norms) - 0.2)
    largest = 1 + shown.index(profile.largest_middle)
    axes.hlines(profile.largest_middle.norm, 0.45, largest + 0.45, color=DARK_GREY, linewidth=1, linestyle='--')
    text = f'embedding layer: {profile.ratio:.2g} times the\nlargest of the layers behind it'
    axes.annotate(
        f'{text}\n(frozen by freeze-embed)',
        (0.45, profile.embed),
        xytext=(0.14, 0.98),
        textcoords='axes fraction',
        color=ROLE_COLOURS['embed'],
        va='top',
    )
    axes.set_xticks([])
    axes.set_xlabel('layers of the network, from input to output')
    heads = [i for i, one in enumerate(shown, 1) if one.part == 'head']
    if heads:
        height = norms[heads[-1]]
        axes.annotate('head', (heads[-1], height), xytext=(0, 3), textcoords='offset points', ha='center',
                      color=ROLE_COLOURS['head'])  # fmt: skip
    axes.set_ylabel('gradient norm')
    axes.set_title(f'Before training (mean of {profile.batches} batches)', fontsize=12)


def _draw_accuracies(axes: 'Axes', records: Sequence[RunRecord]) -> None:
    width = 0.84 / len(records)
    for k, record in enumerate(records):
        metrics = chosen(record)
        values = [100 * metrics.get(key, math.nan) for key in DRAWN]
        positions = [i + (k - (len(records) - 1) / 2) * width for i in range(len(DRAWN))]
        label = f'{method_label(record.method)}, {state_bytes(record)} state bytes per parameter'
        bars = axes.bar(positions, values, 0.93 * width, color=COLOURS.get(record.method), label=label)
        axes.bar_label(bars, ['' if math.isnan(value) else f'{value:.1f}' for value in values], fontsize=11, padding=2)
    axes.set(ylim=(0, 104), ylabel='accuracy and AUROC (%)')
    axes.set_xticks(range(len(DRAWN)), DRAWN.values())
    axes.set_title('After training, one seed', fontsize=12)
    axes.legend(fontsize=10.5, frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.08))
