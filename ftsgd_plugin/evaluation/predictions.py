"""What evaluated samples hold: fields, labels, predicted classes, scores."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..datasets.base import META_KEYS
from ..utils.errors import DivergedError, UserError

_SUM_TOLERANCE = 0.02  # of probabilities in half precision


def predicted_labels(samples: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """The predicted class of every sample, with one wait for the device.

    As in MMPretrain's ``Accuracy``, it is the class with the highest ``pred_score`` where there are scores: averaged
    views (test-time augmentation) leave the first view's ``pred_label`` in the sample.

    Args:
        samples: Data samples as dictionaries, with ``pred_score`` (C,) or ``pred_label``.

    Returns:
        list: Classes; ``None`` for a sample with a score of NaN or Inf, whose highest score has no meaning.
    """
    if not samples or any(sample.get('pred_score') is None for sample in samples):
        return scalars([sample['pred_label'] for sample in samples])
    scores = _stack(samples)
    predicted = torch.where(scores.isfinite().all(dim=1), scores.argmax(dim=1), -1)
    return [None if label < 0 else label for label in predicted.tolist()]


def top_and_positive(
    metric: str, samples: Sequence[Mapping[str, Any]], positive: int, of_two: Sequence[str], probabilities: bool
) -> list[tuple[float, float]]:
    """The highest score of every sample, and that of the positive class.

    Args:
        metric: Name of the metric, for the messages.
        samples: Data samples as dictionaries, with ``pred_score`` (C,).
        positive: Index of the positive class.
        of_two: Names of metrics that are of two classes.
        probabilities: Whether the scores must be probabilities. Scores of NaN or Inf are not looked at.

    Raises:
        UserError: A sample has no scores, scores are not probabilities, or ``of_two`` is not empty and there are not
            two classes.
    """
    if any(sample.get('pred_score') is None for sample in samples):
        raise UserError(f'{metric}: the samples have no pred_score, which its items need; set them to ().')
    scores = _stack(samples)
    if of_two and scores.shape[1] != 2:
        raise UserError(
            f'{metric}: items={of_two[0]!r} is of two classes and the samples have {scores.shape[1]} scores; leave '
            'it out.'
        )
    if probabilities:
        finite = scores[scores.isfinite().all(dim=1)].double()
        if ((finite < 0).any(dim=1) | ((finite.sum(dim=1) - 1).abs() > _SUM_TOLERANCE)).any():
            raise UserError(
                f"{metric}: items='ece' needs probabilities and pred_score holds other scores (below 0, or a sum that "
                'is not 1); leave it out.'
            )
    positives = scores[:, positive] if scores.shape[1] == 2 else torch.full_like(scores[:, 0], torch.nan)
    return [tuple(pair) for pair in torch.stack([scores.amax(dim=1), positives], dim=1).tolist()]


def _stack(samples: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    return torch.stack([torch.as_tensor(sample['pred_score']) for sample in samples])


def require_finite(metric: str, outcomes: Iterable[Any]) -> None:
    """Refuse to give a number if a sample has no prediction.

    Args:
        metric: Name of the metric, for the message.
        outcomes: One per sample; ``None`` where :func:`predicted_labels` gave none.

    Raises:
        DivergedError: One of them is ``None``.
    """
    outcomes = list(outcomes)
    if bad := sum(outcome is None for outcome in outcomes):
        raise DivergedError(
            f'{metric}: the scores of {bad} of {len(outcomes)} samples are NaN or Inf, so there is no accuracy; the '
            'model has diverged: train with a lower learning rate, or evaluate an earlier checkpoint.'
        )


def scalars(values: Sequence) -> list[int]:
    """Whole numbers or tensors with one element as numbers, with one wait for the device."""
    return torch.cat([torch.as_tensor(value).reshape(1) for value in values]).tolist() if len(values) else []


def read_fields(metric: str, sample: Mapping[str, Any], keys: Sequence[str]) -> list:
    """Values of the fields of a sample.

    Args:
        metric: Name of the metric, for the message.
        sample: A data sample as a dictionary.
        keys: Record fields, which ``meta_keys`` of ``PackInputs`` must name.

    Raises:
        UserError: A field is missing.
    """
    missing = [key for key in keys if key not in sample]
    if missing:
        needed = ', '.join(map(repr, dict.fromkeys((*META_KEYS, *keys))))
        raise UserError(
            f'{metric}: the samples lack {missing[0]!r}; set meta_keys=({needed}) of PackInputs in the evaluation '
            'pipeline.'
        )
    return [sample[key] for key in keys]
