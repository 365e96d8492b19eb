"""Pictures."""

import os
from collections.abc import Sequence
from pathlib import Path

LABELS = {
    'sgd': 'SGD',
    'adamw': 'AdamW',
    'freeze-embed': 'SGD (freeze-embed)',
    'adamw-freeze-embed': 'AdamW (freeze-embed)',
    'freeze-embed-no-momentum': 'SGD (freeze-embed, no momentum)',
    'gradual-unfreezing': 'gradual unfreezing',
    'lamb': 'LAMB',
    'lars': 'LARS',
    'freeze-stem': 'SGD (freeze patch convolution)',
    'sgd-no-momentum': 'SGD (no momentum)',
    'sgd-weight-decay': 'SGD (weight decay 0.01)',
}
COLOURS = {  # Okabe and Ito's, told apart by colour-blind readers
    'sgd': '#0072b2',
    'adamw': '#e69f00',
    'freeze-embed': '#009e73',
    'adamw-freeze-embed': '#f0e442',
    'freeze-embed-no-momentum': '#56b4e9',
    'gradual-unfreezing': '#cc79a7',
}
ROLE_COLOURS = {'embed': '#c44e52', 'head': '#8172b3'}


def draw_comparison(summary: Sequence[dict], norms: Sequence[tuple[str, str, float]], path: str | os.PathLike) -> None:
    """Draw accuracies by method beside the gradient norm of every layer; written whole or not at all.

    Args:
        summary: Output of :func:`ftsgd_plugin.analysis.summary.summarise`.
        norms: ``(layer name, role, gradient norm)`` from input to output.
        path: PNG file.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), width_ratios=(1, 1.35), constrained_layout=True)
    measures = {'id': 'ID', 'ood': 'OOD average', 'ood_worst': 'OOD worst group'}
    width = 0.8 / len(summary)
    for k, line in enumerate(summary):
        positions = [i + (k - (len(summary) - 1) / 2) * width for i in range(len(measures))]
        means, errors = zip(*(line[key] for key in measures))
        method = line['method']
        bars = left.bar(
            positions,
            [100 * mean for mean in means],
            width * 0.92,
            yerr=[100 * (error or 0) for error in errors],
            capsize=3,
            color=COLOURS.get(method),
            label=f'{LABELS.get(method, method)}, {line["state_bytes_per_param"]:.1f} state bytes/param',
        )
        left.bar_label(bars, fmt='%.1f', fontsize=8, padding=2)
    seeds = len(summary[0]['seeds'])
    left.set(ylabel='accuracy (%)', ylim=(0, 118), title=f'Mean ± standard error of {seeds} seeds, lr chosen by ID')
    left.set_yticks(range(0, 101, 20))
    left.set_xticks(range(len(measures)), measures.values())
    left.legend(fontsize=8, loc='upper right')

    names, roles, heights = zip(*norms)
    right.bar(range(len(norms)), heights, color=[ROLE_COLOURS.get(role, '#bbbbbb') for role in roles])
    right.set(ylabel='gradient norm', title='Pretrained model at the first batch, input to output')
    right.set_xticks(range(len(norms)), names, rotation=90, fontsize=8)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in ROLE_COLOURS.values()]
    right.legend(handles, ['embedding layer (frozen by freeze-embed)', 'head'], fontsize=8)
    for axes in (left, right):
        axes.spines[['top', 'right']].set_visible(False)

    path = Path(path)
    unfinished = path.with_name(f'.{path.name}')
    figure.savefig(unfinished, format='png', dpi=110)
    plt.close(figure)
    os.replace(unfinished, path)
