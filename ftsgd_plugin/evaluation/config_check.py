"""Check an evaluator against the splits its data loader gives, before the first epoch instead of after it."""

from collections.abc import Iterable, Mapping

from ..utils.errors import UserError
from .group_accuracy import subset_of


def check_evaluated_splits(evaluators: Mapping | Iterable[Mapping] | None, loader: Mapping | None, loop: str) -> None:
    """Find a misspelt split of ``GroupAccuracy``.

    Args:
        evaluators: Config of the evaluator or evaluators.
        loader: Config of the data loader, with a dataset or a concatenation of datasets.
        loop: ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: The ID or OOD split is not among those that are read.
    """
    if loader is None or 'dataset' not in loader:
        return
    datasets = loader['dataset'].get('datasets', [loader['dataset']])
    splits = [dataset['split'] for dataset in datasets if 'split' in dataset]
    for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators or []:
        if evaluator.get('type') != 'GroupAccuracy' or not splits:
            continue
        for option in ('id', 'ood'):
            split = subset_of(option, evaluator.get(option))['split']
            if split not in splits:
                raise UserError(
                    f'{loop}_evaluator.{option}: split {split!r} is not in {loop}_dataloader ({", ".join(splits)}); '
                    'correct one of them.'
                )
