"""Metric keys that every evaluated run has, the further metrics, and the labels that tables and figures print."""

from collections.abc import Sequence

ID_METRIC = 'id/accuracy'
OOD_METRIC = 'ood/accuracy'
WORST_GROUP = 'ood/worst_group'
METRIC_LABELS = {ID_METRIC: 'ID', OOD_METRIC: 'OOD average', WORST_GROUP: 'OOD worst group'}

ACCURACY = 'accuracy'
# Name -> label. `GroupAccuracy(items=...)` takes all but the first; tables and reports select and show one of them.
METRIC_NAMES = {
    ACCURACY: 'accuracy',
    'balanced_accuracy': 'balanced accuracy',
    'macro_f1': 'macro F1',
    'auroc': 'AUROC',
    'average_precision': 'average precision',
    'ece': 'expected calibration error',
}
OF_TWO_CLASSES = frozenset({'auroc', 'average_precision'})
_LESS_IS_BETTER = frozenset({'ece'})


def better_rule(key: str) -> str | None:
    """Whether a larger or a smaller value of a metric is better.

    Args:
        key: ``id/NAME``, ``ood/NAME`` or ``split/SPLIT/NAME`` with a name of :data:`METRIC_NAMES`, or that name alone.

    Returns:
        str | None: ``'greater'`` or ``'less'``, as MMEngine's hooks call it; ``None`` for any other key.
    """
    *where, name = key.split('/')
    if name not in METRIC_NAMES or (
        where and where not in (['id'], ['ood']) and not (where[0] == 'split' and where[1:])
    ):
        return None
    return 'less' if name in _LESS_IS_BETTER else 'greater'


def sign_of(key: str) -> int:
    """1 if a larger value of a metric is better, -1 if a smaller one is."""
    return -1 if better_rule(key) == 'less' else 1


def selecting_key(save_best: str | Sequence[str] | None) -> str:
    """The metric that selects the epoch of a run: the first ID key that its checkpoint hook saves the best of.

    Args:
        save_best: Option of the checkpoint hook.

    Returns:
        str: A key of ``id/``; ``'id/accuracy'`` if the option names none.
    """
    keys = [save_best] if isinstance(save_best, str) else list(save_best or ())
    return next((key for key in keys if key.startswith('id/') and better_rule(key)), ID_METRIC)
