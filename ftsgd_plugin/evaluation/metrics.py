"""Further metrics of the predictions of a subset: balanced accuracy, macro F1, AUROC, average precision, calibration.

scikit-learn computes all but the calibration error; it is imported when a metric is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Predictions:
    """What is known of N samples.

    Attributes:
        labels: Their classes, (N,).
        predicted: Their predicted classes, (N,).
        top: Probabilities of the predicted classes, (N,); NaN if unknown.
        positive: Scores of the positive class, (N,); NaN if unknown.
        is_positive: Whether they are of the positive class, (N,).
        weights: Weight of each in the metric, (N,); ``None`` for equal ones.
    """

    labels: np.ndarray
    predicted: np.ndarray
    top: np.ndarray
    positive: np.ndarray
    is_positive: np.ndarray
    weights: np.ndarray | None = None


def balanced_accuracy(found: Predictions) -> float:
    """Mean of the recalls of the classes that occur among the labels."""
    from sklearn.metrics import recall_score

    classes = np.unique(found.labels)
    return recall_score(
        found.labels, found.predicted, labels=classes, average='macro', sample_weight=found.weights, zero_division=0
    )


def macro_f1(found: Predictions) -> float:
    """Mean of the F1 scores of the classes that occur among the labels or the predictions."""
    from sklearn.metrics import f1_score

    return f1_score(found.labels, found.predicted, average='macro', sample_weight=found.weights, zero_division=0)


def auroc(found: Predictions) -> float | None:
    """Area under the ROC curve of the positive class; ``None`` if only one class occurs."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(found.is_positive)) < 2:
        return None
    return roc_auc_score(found.is_positive, found.positive, sample_weight=found.weights)


def average_precision(found: Predictions) -> float | None:
    """Average precision of the positive class, the step-wise sum of scikit-learn; ``None`` if only one class occurs."""
    from sklearn.metrics import average_precision_score

    if len(np.unique(found.is_positive)) < 2:
        return None
    return average_precision_score(found.is_positive, found.positive, sample_weight=found.weights)


def expected_calibration_error(found: Predictions) -> float:
    """Mean distance of accuracy and confidence over bins of the confidence, weighted by their share of the samples.

    The confidence is the probability of the predicted class. 15 bins of equal width, ``(lower, upper]``, cover 0 to 1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    weights = np.ones(len(found.top)) if found.weights is None else found.weights
    bins = np.digitize(found.top, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    gaps = np.bincount(bins, weights * ((found.predicted == found.labels) - found.top), minlength=BINS)
    return np.abs(gaps).sum() / weights.sum()


# By the names of `ftsgd_plugin.utils.metrics.METRIC_NAMES`.
METRICS: dict[str, Callable[[Predictions], float | None]] = {
    'balanced_accuracy': balanced_accuracy,
    'macro_f1': macro_f1,
    'auroc': auroc,
    'average_precision': average_precision,
    'ece': expected_calibration_error,
}
OF_SCORES = frozenset({'auroc', 'average_precision', 'ece'})  # the others are of predicted classes
