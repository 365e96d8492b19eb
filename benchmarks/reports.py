"""Write run records without training: to time the reports, and to see the authors' runs in them.

    python benchmarks/reports.py generated 5000 DIR   # random accuracies in the shape of the paper's experiments
    python benchmarks/reports.py authors DIR          # the 432 stored runs of CLIP ViT-B/16 of the paper's authors
    time python tools/report.py DIR -o report.html

Generated accuracies are random: they serve to measure time, not methods.
"""

import argparse
import csv
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from ftsgd_plugin.paper.grids import GRIDS
from ftsgd_plugin.paper.names import DATASETS, MAIN_METHODS, MODELS
from ftsgd_plugin.paper.published import ood_metric
from ftsgd_plugin.records import RunRecord, write_record
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.metrics import ID_METRIC, OOD_METRIC, WORST_GROUP
from ftsgd_plugin.utils.version import __version__

AUTHORS_CSV = Path(__file__).resolve().parents[1] / 'tests/assets/clip_vit_b16_per_run_sweep.csv'
AUTHORS_METHODS = {
    'SGD': 'sgd',
    'AdamW': 'adamw',
    'SGD freeze-embed': 'freeze-embed',
    'gradual-unfreezing (layer_wise_tune)': 'gradual-unfreezing',
    'LAMB': 'lamb',
    'LARS': 'lars',
}
AUTHORS_DATASETS = {  # name -> (name here, column of the ID metric, column of the OOD metric)
    'living17_nonorm': ('living17', 'test_acc/source_val_living', 'test_acc/target_val_living'),
    'waterbirds': ('waterbirds', 'WATERBIRDS_VAL', 'WORST'),
    'domainnet': ('domainnet', 'test_acc/sketch_val', 'test_acc/real_val'),
    'fmow_all_nonorm_weakaugs': ('fmow', 'test_acc/id_val', 'test_acc/africa_test'),
    'camelyon17_weakaugs': ('camelyon', 'test_acc/id_val', 'test_acc/ood_test'),
}
EPOCHS = {'living17': 20, 'waterbirds': 20, 'domainnet': 50, 'fmow': 5, 'camelyon': 3}
GENERATED_METHODS = (*MAIN_METHODS, 'gradual-unfreezing')


def authors_records() -> Iterator[RunRecord]:
    """The authors' stored runs, each with the one epoch that their rule selected."""
    with open(AUTHORS_CSV, newline='', encoding='utf-8') as file:
        for row in csv.DictReader(line for line in file if not line.startswith('#')):
            dataset, id_column, ood_column = AUTHORS_DATASETS[row['dataset']]
            ood = float(row[ood_column]) / 100
            metrics = {ID_METRIC: float(row[id_column]) / 100, OOD_METRIC: ood}
            yield RunRecord(
                model='clip-vit-b16',
                method=AUTHORS_METHODS[row['method']],
                dataset=dataset,
                lr=float(row['lr']),
                seed=int(row['seed']),
                config_hash='',
                status='finished',
                epochs=[{**metrics, ood_metric(dataset): ood}],
                selected_epoch=0,
                code={'version': "the authors' code", 'commit': '13c3e2b'},
                command=f"stored run of the paper's authors: {row['method']}, lr {row['lr']}, seed {row['seed']}",
            )


def generated_records(count: int) -> Iterator[RunRecord]:
    """Records of ``count`` runs with random accuracies; every call gives the same."""
    random_ = random.Random(0)
    settings = (
        (model, method, dataset, lr, seed)
        for seed in itertools.count()
        for model, method, dataset in itertools.product(MODELS, GENERATED_METHODS, DATASETS)
        for lr in GRIDS[method]
    )
    for i, (model, method, dataset, lr, seed) in enumerate(itertools.islice(settings, count)):
        level = random_.uniform(0.6, 0.95)
        epochs = []
        for _ in range(EPOCHS[dataset]):
            id_accuracy = min(0.995, max(0.05, random_.gauss(level, 0.01)))
            ood = id_accuracy * random_.uniform(0.75, 0.95)
            groups = {f'group/{k}': ood * random_.uniform(0.9, 1) for k in range(4)}
            worst = min(groups.values())
            epochs.append({ID_METRIC: id_accuracy, OOD_METRIC: ood, WORST_GROUP: worst, **groups})
        yield RunRecord(
            model=model,
            method=method,
            dataset=dataset,
            lr=lr,
            seed=seed,
            config_hash=f'{i:064x}',
            status='failed' if i % 100 == 99 else 'finished',
            error='RuntimeError: made up' if i % 100 == 99 else '',
            epochs=epochs,
            selected_epoch=max(range(len(epochs)), key=lambda e: epochs[e][ID_METRIC]),
            code={'version': __version__, 'commit': '0' * 40},
            environment={'python': '3.11', 'torch': '2.11.0', 'device': 'none (generated)', 'processes': 1},
            resources={'seconds': 100.0, 'peak_bytes': random_.randint(4, 16) * 2**30, 'state_bytes': 2**30},
            command=f'generated run {i}',
        )


def write_all(records: Iterator[RunRecord], directory: str | Path) -> int:
    """Write each record into a run directory below; returns how many."""
    count = 0
    for record in records:
        name = f'{record.model}_{record.method}_{record.dataset}_lr{record.lr:g}_seed{record.seed}'
        write_record(record, Path(directory) / name)
        count += 1
    return count


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest='kind', required=True)
    generated = kinds.add_parser('generated', help='random records')
    generated.add_argument('count', type=int, help='number of runs')
    authors = kinds.add_parser('authors', help="the authors' stored runs")
    for kind in (generated, authors):
        kind.add_argument('directory', help='directory to write to')
    args = parser.parse_args()
    records = authors_records() if args.kind == 'authors' else generated_records(args.count)
    print(f'{write_all(records, args.directory)} records in {args.directory}')


if __name__ == '__main__':
    main()
