"""Feed GroupAccuracy by hand."""

import torch

from ftsgd_plugin.evaluation import GroupAccuracy


def evaluate(metric: GroupAccuracy, rows) -> dict[str, float]:
    """Feed ``(split, group, label, prediction)`` in batches, as the evaluator does."""
    for start in range(0, len(rows), 7):
        samples = [
            dict(split=split, group=group, gt_label=torch.tensor([label]), pred_label=torch.tensor([prediction]))
            for split, group, label, prediction in rows[start : start + 7]
        ]
        metric.process({}, samples)
    return metric.evaluate(len(rows))
