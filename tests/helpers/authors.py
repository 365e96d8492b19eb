"""Records for tests: the authors' stored runs and generated ones, by benchmarks/reports.py, and single ones."""

import importlib.util

from ftsgd_plugin.records import RunRecord
from helpers import ROOT

_spec = importlib.util.spec_from_file_location('benchmark_reports', ROOT / 'benchmarks/reports.py')
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)


def record(method: str = 'sgd', lr: float = 1e-3, seed: int = 0, ids=(0.8,), oods=None, **changes) -> RunRecord:
    """A finished run of the demo; ``ids`` and ``oods`` are its accuracies by epoch."""
    oods = [value - 0.2 for value in ids] if oods is None else oods
    epochs = [{'id/accuracy': i, 'ood/accuracy': o, 'ood/worst_group': o - 0.1} for i, o in zip(ids, oods)]
    values = dict(
        model='vit-tiny',
        method=method,
        dataset='digits',
        lr=lr,
        seed=seed,
        config_hash='0',
        status='finished',
        epochs=epochs,
        code={'version': reports.__version__, 'commit': 'abc'},
    )
    return RunRecord(**{**values, **changes})
