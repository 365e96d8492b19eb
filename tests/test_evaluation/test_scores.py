"""Which prediction is evaluated: that of the scores, as MMPretrain's Accuracy does, and none for scores of NaN."""

import pytest
import torch
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import AverageClsScoreTTA
from mmpretrain.structures import DataSample

from ftsgd_plugin.datasets import Waterbirds
from ftsgd_plugin.evaluation import GroupAccuracy
from ftsgd_plugin.evaluation.wilds import WildsPredictions
from ftsgd_plugin.utils.errors import DivergedError

LABELS = (0, 1, 1, 0, 1, 0, 0, 1)


def averaged() -> list[dict]:
    """Samples of two views averaged by MMPretrain: the first wrong and unsure, the second right and sure."""
    views = []
    for i, label in enumerate(LABELS):
        right = torch.nn.functional.one_hot(torch.tensor(label), 2).float()
        of_sample = []
        for scores in (0.45 * right + 0.55 * (1 - right), 0.9 * right + 0.1 * (1 - right)):
            sample = DataSample(metainfo=dict(split='val' if i % 2 else 'test', group='a', img_path=f'{i}.jpg'))
            of_sample.append(sample.set_gt_label(label).set_pred_score(scores).set_pred_label(scores.argmax()))
        views.append(of_sample)
    merge = AverageClsScoreTTA.merge_preds
    holder = type('Merger', (), {'_merge_single_sample': AverageClsScoreTTA._merge_single_sample})()
    return [sample.to_dict() for sample in merge(holder, views)]


def test_averaged_views_give_mmpretrains_accuracy():
    samples, ours, theirs = averaged(), GroupAccuracy(id='val', ood='test'), Accuracy(topk=1)
    assert all(int(sample['pred_label']) != label for sample, label in zip(samples, LABELS))
    for metric in (ours, theirs):
        metric.process({}, samples)
    found = ours.evaluate(len(samples))
    assert theirs.evaluate(len(samples))['accuracy/top1'] == 100
    assert found['id/accuracy'] == found['ood/accuracy'] == found['ood/worst_group'] == 1


def test_further_metrics_are_of_the_averaged_views():
    metric = GroupAccuracy('val', 'test', items=('balanced_accuracy', 'macro_f1', 'auroc', 'average_precision', 'ece'))
    samples = averaged()
    metric.process({}, samples)
    found = metric.evaluate(len(samples))
    assert all(found[f'{part}/{name}'] == 1 for part in ('id', 'ood') for name in metric.items[:4])
    assert found['id/ece'] == pytest.approx(1 - (0.45 + 0.9) / 2)


def test_averaged_views_reach_the_files_of_the_leaderboard():
    metric = WildsPredictions([Waterbirds('nowhere', 'test', lazy_init=True)], 'predictions')
    metric.process({}, averaged())
    assert [predicted for _, _, predicted in metric.results] == list(LABELS)


def test_without_scores_the_label_counts():
    samples = [{key: value for key, value in sample.items() if key != 'pred_score'} for sample in averaged()]
    metric = GroupAccuracy(id='val', ood='test')
    metric.process({}, samples)
    assert metric.evaluate(len(samples))['id/accuracy'] == 0


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('kind', ['accuracy', 'wilds'])
def test_scores_that_are_not_finite_are_an_error_and_no_class_0(tmp_path, kind, value):
    samples = averaged()
    samples[3]['pred_score'][1] = value
    metric = GroupAccuracy(id='val', ood='test')
    if kind == 'wilds':
        metric = WildsPredictions([Waterbirds('nowhere', 'test', lazy_init=True)], str(tmp_path / 'predictions'))
    metric.process({}, samples)
    with pytest.raises(DivergedError, match=r'the scores of 1 of 8 samples are NaN or Inf.*lower learning rate'):
        metric.compute_metrics(metric.results)
    assert not list(tmp_path.iterdir())
