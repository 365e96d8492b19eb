"""Write the experiment matrix: a thin config for each of 7 models, 6 methods and 5 datasets of the paper.

Beside it: 2 models, 6 methods and 2 datasets of the benchmark on a real network (`benchmarks/real_model.py`).

    python tools/maintain/make_configs.py            # (re)write configs/MODEL_METHOD_DATASET.py
    python tools/maintain/make_configs.py --check    # write nothing; exit 1 and name the files that differ

To change the files, change the table here or those in `ftsgd_plugin/paper/`, and run this again.
"""

import argparse
import itertools
import sys
from pathlib import Path

from ftsgd_plugin.paper.grids import GRIDS, format_rate
from ftsgd_plugin.paper.names import (
    CONFIG_METHODS,
    DATASETS,
    MODELS,
    PRETRAINED_ON,
    REAL_DATASETS,
    REAL_MODELS,
    dataset_label,
    method_label,
    model_label,
)
from ftsgd_plugin.paper.published import PaperResult, paper_results
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.files import write_text
from ftsgd_plugin.utils.format import format_mean

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

# Classes, and `data_root` of the dataset part.
DATA = {
    'living17': (17, 'data/imagenet'),
    'waterbirds': (2, 'data/waterbirds_v1.0'),
    'domainnet': (40, 'data/domainnet'),
    'fmow': (62, 'data/fmow_v1.1'),
    'camelyon': (2, 'data/camelyon17_v1.0'),
    'elpv-mono': (2, ''),
    'elpv-poly': (2, ''),
}
# A start for the real network: what did well in a first trial at 112 pixels; `configs/sweeps/real.py` has the grids.
REAL_LRS = {
    'sgd': 1e-4,
    'adamw': 1e-5,
    'freeze-embed': 3e-4,
    'adamw-freeze-embed': 1e-5,
    'freeze-embed-no-momentum': 3e-3,
    'gradual-unfreezing': 1e-5,
}
TEMPLATE = '''\
"""{title} on {benchmark} with {label}.

python tools/prepare_data.py {data}
python tools/train.py configs/{name}.py
{published}"""

_base_ = [
    '_base_/models/{model}.py',
    '_base_/methods/{method}.py',
    '_base_/datasets/{dataset}.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes={num_classes}))
optim_wrapper = dict(optimizer=dict(lr={lr}))  # {choice}
'''


def config_text(model: str, method: str, dataset: str, result: PaperResult | None) -> str:
    """The config file of a cell; ``result`` has the paper's numbers."""
    grid = GRIDS[method]
    num_classes, data_root = DATA[dataset]
    if result and result.lr:
        lr, choice = result.lr, "the authors' best"
    elif model in REAL_MODELS:
        lr, choice = REAL_LRS[method], 'from a first trial'
    else:
        middle = len(grid) // 2  # of six, the upper of the two
        lr, choice = grid[middle], f"middle of the paper's grid, {format_rate(grid[0])} to {format_rate(grid[-1])}"
    return TEMPLATE.format(
        title=model_label(model) + (f' ({PRETRAINED_ON[model]})' if model in PRETRAINED_ON else ''),
        benchmark=dataset_label(dataset),
        label=method_label(method),
        data=f'{dataset} {data_root}' if data_root else dataset.partition('-')[0],
        dataset=dataset,
        name=f'{model}_{method}_{dataset}',
        published=f'\n{_published(result)}\n' if result else '',
        model=model,
        method=method,
        num_classes=num_classes,
        lr=format_rate(lr),
        choice=f'base; {choice}' if method == 'gradual-unfreezing' else choice,
    )


def _published(result: PaperResult) -> str:
    """The paper's numbers as a sentence."""
    if result.n_seeds == 1:
        return f'The paper: ID {result.id:.1f} %, OOD {result.ood:.1f} % (one seed).'
    accuracies = (
        f'{key.upper()} {format_mean(getattr(result, key), getattr(result, f"{key}_ci90"))} %' for key in ('id', 'ood')
    )
    return f'The paper: {", ".join(accuracies)} ({result.n_seeds} seeds, 90 % interval).'


def matrix() -> dict[Path, str]:
    """The text of every config of the matrix by its path."""
    published = {(result.model, result.method, result.dataset): result for result in paper_results()}
    return {
        CONFIGS / f'{"_".join(cell)}.py': config_text(*cell, published.get(cell))
        for models, datasets in ((MODELS, DATASETS), (REAL_MODELS, REAL_DATASETS))
        for cell in itertools.product(models, CONFIG_METHODS, datasets)
    }


def write_configs(check: bool = False) -> list[Path]:
    """Write the configs that differ from the tables.

    Args:
        check: Write nothing.

    Returns:
        list[Path]: The files that differ, or differed before they were written.
    """
    texts = matrix()
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text('utf-8') != text]
    for path in [] if check else stale:
        write_text(path, texts[path])
    return stale


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='exit 1 and name the files that differ; write nothing')
    args = parser.parse_args()
    stale = write_configs(args.check)
    if args.check and stale:
        print(*(f'configs/{path.name}' for path in stale), sep='\n')
        count = f'{len(stale)} of {len(matrix())} configs differ'
        print(f'{count}; run python tools/maintain/make_configs.py', file=sys.stderr)
        sys.exit(1)
    print(f'{len(matrix())} configs in {CONFIGS}, {len(stale)} written')


if __name__ == '__main__':
    main()
