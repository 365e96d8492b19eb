"""A metric whose values are written down before the run."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub
from mmpretrain.registry import METRICS


@METRICS.register_module()
class ScriptedScore(BaseMetric):
    """``id/accuracy`` after each epoch.

    Args:
        scores: One per epoch.
    """

    default_prefix = 'id'

    def __init__(self, scores: Sequence[float], **options) -> None:
        super().__init__(**options)
        self.scores = scores

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return {'accuracy': self.scores[MessageHub.get_current_instance().get_info('epoch', 0)]}
