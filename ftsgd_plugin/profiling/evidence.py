"""The paper's own experiments as evidence for a diagnosis: gradient ratios before training and gains after it.

What was measured with this project (:mod:`ftsgd_plugin.profiling.own_points`) is shown beside it, and counts only where
that is asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from ..paper.published import paper_gradients, paper_results
from .own_points import OwnPoint


@dataclass(frozen=True)
class PaperPoint:
    """One of the paper's models on one of its datasets.

    Attributes:
        model, dataset: As in the config's name.
        ratio: Gradient norm of the embedding over that of the largest middle layer, before training.
        freeze_embed_gain: OOD accuracy of SGD (freeze-embed) minus SGD, in percentage points.
        adamw_gain: OOD accuracy of AdamW minus SGD, likewise.
    """

    model: str
    dataset: str
    ratio: float
    freeze_embed_gain: float
    adamw_gain: float


@dataclass(frozen=True)
class Correlation:
    """Correlation of the logarithm of the ratio with a gain, over the paper's points or more.

    Attributes:
        spearman, pearson: Coefficients.
        spearman_p, pearson_p: Their p-values, as if the points were independent; 20 points of 7 models are not, so the
            values are too small.
        points: Number of points.
        own: How many of them were measured with this project.
    """

    spearman: float
    spearman_p: float
    pearson: float
    pearson_p: float
    points: int
    own: int = 0


def paper_points() -> list[PaperPoint]:
    """The paper's models on Living-17, Waterbirds and DomainNet, where it measured gradients."""
    ood = {(r.model, r.method, r.dataset): r.ood for r in paper_results()}
    points = []
    for norms in paper_gradients():
        model, dataset = norms.model, norms.dataset
        sgd = ood[model, 'sgd', dataset]
        points.append(
            PaperPoint(
                model,
                dataset,
                norms.embed / norms.middle,
                ood[model, 'freeze-embed', dataset] - sgd,
                ood[model, 'adamw', dataset] - sgd,
            )
        )
    return points


Point = PaperPoint | OwnPoint


def correlation(points: Sequence[Point], gain: str = 'freeze_embed_gain') -> Correlation:
    """Correlation of the logarithm of the ratio with a gain.

    Args:
        points: Output of :func:`paper_points`, with or without points of our own.
        gain: ``'freeze_embed_gain'`` or ``'adamw_gain'``.
    """
    from scipy.stats import pearsonr, spearmanr

    ratios, gains = [math.log(point.ratio) for point in points], [getattr(point, gain) for point in points]
    rank, linear = spearmanr(ratios, gains), pearsonr(ratios, gains)
    own = sum(isinstance(point, OwnPoint) for point in points)
    return Correlation(*(float(x) for x in (*rank, *linear)), len(points), own)


def nearest(points: Sequence[Point], ratio: float, count: int = 6) -> list[Point]:
    """The ``count`` points whose ratios are nearest to ``ratio``, by factor."""
    return sorted(points, key=lambda point: abs(math.log(point.ratio / ratio)))[:count]


def mean_ood(method: str) -> float:
    """Mean OOD accuracy of a method over the paper's main tables (7 models, 5 datasets), in percent.

    Args:
        method: ``'sgd'``, ``'adamw'`` or ``'freeze-embed'``; others were published for one model only.
    """
    return mean(result.ood for result in paper_results() if result.method == method)
