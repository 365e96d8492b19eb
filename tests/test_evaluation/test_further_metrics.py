"""The further metrics of GroupAccuracy against scikit-learn, torchmetrics and Guo et al.'s code."""

import itertools

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as tm
from mmengine.config import Config
from mmengine.logging import MMLogger

from ftsgd_plugin.evaluation import GroupAccuracy, check_configured_metrics
from ftsgd_plugin.utils.errors import DivergedError, UserError

ALL = ('balanced_accuracy', 'macro_f1', 'auroc', 'average_precision', 'ece')
OF_MANY = ('balanced_accuracy', 'macro_f1', 'ece')


def draw(seed: int, count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, unevenly distributed, and scores that know something about them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.arange(1.0, classes + 1), count, replacement=True, generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[range(count), labels] += 1
    return labels, logits.softmax(dim=1)


def samples_of(labels, scores, split='val', groups='a') -> list[dict]:
    return [
        dict(split=split, group=group, gt_label=label.reshape(1), pred_score=score)
        for label, score, group in zip(labels, scores, groups if len(groups) == len(labels) else groups * len(labels))
    ]


def evaluate(metric: GroupAccuracy, samples: list[dict]) -> dict[str, float]:
    for start in range(0, len(samples), 64):
        metric.process({}, samples[start : start + 64])
    return metric.evaluate(len(samples))


def guo(scores: torch.Tensor, labels: torch.Tensor, n_bins: int = 15) -> float:
    """``_ECELoss`` of github.com/gpleiss/temperature_scaling, the code of Guo et al."""
    boundaries = torch.linspace(0, 1, n_bins + 1)
    confidences, predictions = torch.max(scores, 1)
    accuracies = predictions.eq(labels)
    ece = torch.zeros(1)
    for lower, upper in itertools.pairwise(boundaries):
        in_bin = confidences.gt(lower.item()) * confidences.le(upper.item())
        prop_in_bin = in_bin.float().mean()
        if prop_in_bin.item() > 0:
            ece += torch.abs(confidences[in_bin].mean() - accuracies[in_bin].float().mean()) * prop_in_bin
    return float(ece)


@pytest.mark.parametrize('classes', [2, 7])
def test_metrics_equal_those_of_sklearn_and_torchmetrics(classes):
    for seed in range(4):
        labels, scores = draw(seed, 300, classes)
        metric = GroupAccuracy(id='val', ood='val', items=ALL if classes == 2 else OF_MANY)
        found = evaluate(metric, samples_of(labels, scores))
        predicted = scores.argmax(dim=1)
        per_class = dict(num_classes=classes, average='macro')
        expected = {
            'balanced_accuracy': (
                sklearn.metrics.balanced_accuracy_score(labels, predicted),
                tm.multiclass_accuracy(predicted, labels, **per_class),
            ),
            'macro_f1': (
                sklearn.metrics.f1_score(labels, predicted, average='macro'),
                tm.multiclass_f1_score(predicted, labels, **per_class),
            ),
            'ece': (
                tm.multiclass_calibration_error(scores, labels, classes, n_bins=15, norm='l1'),
                guo(scores, labels),
            ),
        }
        if classes == 2:
            expected['auroc'] = (
                sklearn.metrics.roc_auc_score(labels, scores[:, 1]),
                tm.binary_auroc(scores[:, 1], labels),
            )
            expected['average_precision'] = (
                sklearn.metrics.average_precision_score(labels, scores[:, 1]),
                tm.binary_average_precision(scores[:, 1], labels),
            )
        for name, values in expected.items():
            for value in values:
                assert found[f'id/{name}'] == pytest.approx(float(value), abs=1e-6), name
            assert found[f'id/{name}'] == found[f'ood/{name}'] == found[f'split/val/{name}']
        assert found['id/accuracy'] == pytest.approx((predicted == labels).float().mean())


def test_confidences_on_the_edge_of_a_bin_belong_to_the_lower_one():
    top = torch.tensor([9 / 15, 12 / 15, 1.0, 0.55, 0.9], dtype=torch.float64)
    scores, labels = torch.stack([top, 1 - top], dim=1), torch.tensor([0, 1, 0, 1, 0])
    found = evaluate(GroupAccuracy(id='val', ood='val', items='ece'), samples_of(labels, scores))
    gaps = [(0 - 0.55) + (1 - 0.6), 0 - 0.8, 1 - 0.9, 1 - 1.0]  # of the bins that end at 9, 12, 14 and 15 fifteenths
    assert found['id/ece'] == pytest.approx(sum(map(abs, gaps)) / 5, abs=1e-6)


def test_weighted_subset_equals_a_set_in_which_every_sample_occurs_that_often():
    """Weights 6 and 2 over groups of 30 and 20 samples: as if each occurred twice, and once."""
    labels, scores = draw(0, 50, 2)
    samples = samples_of(labels, scores, groups=['a'] * 30 + ['b'] * 20)
    weighted = dict(split='val', weights={'a': 6.0, 'b': 2.0})
    found = evaluate(GroupAccuracy(id=weighted, ood='val', items=ALL), samples)
    repeated = evaluate(GroupAccuracy(id='val', ood='val', items=ALL), samples[:30] * 2 + samples[30:])
    for name in ('accuracy', *ALL):
        assert found[f'id/{name}'] == pytest.approx(repeated[f'id/{name}']), name
        assert name == 'accuracy' or found[f'id/{name}'] != pytest.approx(found[f'ood/{name}']), name


def test_chosen_groups_and_every_split_have_their_own():
    labels, scores = draw(3, 90, 2)
    samples = [
        *samples_of(labels[:40], scores[:40], 'val', ['a'] * 25 + ['b'] * 15),
        *samples_of(labels[40:], scores[40:], 'test'),
    ]
    found = evaluate(GroupAccuracy(id=dict(split='val', groups=['b']), ood='test', items=ALL), samples)
    for key, part in (('id', slice(25, 40)), ('ood', slice(40, 90)), ('split/val', slice(0, 40))):
        alone = evaluate(GroupAccuracy(id='val', ood='val', items=ALL), samples_of(labels[part], scores[part]))
        assert {name: found[f'{key}/{name}'] for name in ALL} == {name: alone[f'id/{name}'] for name in ALL}
    assert {key for key in found if key.count('/') == 2} == {f'split/{s}/{n}' for s in ('val', 'test') for n in ALL}


def test_positive_class_is_an_option():
    labels, scores = draw(4, 200, 2)
    both = [evaluate(GroupAccuracy('val', 'val', items=ALL, positive=i), samples_of(labels, scores)) for i in (0, 1)]
    for found, positive in zip(both, (0, 1)):
        expected = sklearn.metrics.average_precision_score(labels == positive, scores[:, positive])
        assert found['id/average_precision'] == pytest.approx(expected)
    assert both[0]['id/auroc'] == pytest.approx(both[1]['id/auroc'])
    with pytest.raises(UserError, match='positive=2 is neither 0 nor 1'):
        GroupAccuracy('val', 'val', positive=2)


def test_of_a_split_with_one_class_auroc_is_no_number(monkeypatch):
    said = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda level, text: said.append(text))
    labels, scores = draw(5, 60, 2)
    one = samples_of(torch.ones(20, dtype=torch.long), scores[:20], 'test')
    metric = GroupAccuracy(id='val', ood='test', items=ALL)
    for _ in range(2):
        found = evaluate(metric, [*samples_of(labels, scores), *one])
    undefined = {f'{part}/{name}' for part in ('ood', 'split/test') for name in ('auroc', 'average_precision')}
    assert not undefined & found.keys() and {'id/auroc', 'ood/balanced_accuracy', 'ood/ece'} <= found.keys()
    assert all(np.isfinite(list(found.values())))
    assert len(said) == len(undefined) and all('all samples there are of one class' in text for text in said)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_scores_that_are_not_finite_are_an_error_for_every_metric(value):
    labels, scores = draw(6, 10, 2)
    scores[3, 1] = value
    metric = GroupAccuracy('val', 'val', items=ALL)
    metric.process({}, samples_of(labels, scores))
    with pytest.raises(DivergedError, match='the scores of 1 of 10 samples are NaN or Inf'):
        metric.compute_metrics(metric.results)


def test_scores_that_do_not_fit_are_one_line():
    labels, scores = draw(7, 10, 3)
    with pytest.raises(UserError, match=r"items='auroc' is of two classes and the samples have 3 scores"):
        GroupAccuracy('val', 'val', items=ALL).process({}, samples_of(labels, scores))
    with pytest.raises(UserError, match=r"items='ece' needs probabilities"):
        GroupAccuracy('val', 'val', items='ece').process({}, samples_of(labels, 3 * scores))
    bare = [dict(split='val', group='a', gt_label=torch.tensor([0]), pred_label=torch.tensor([0]))]
    with pytest.raises(UserError, match='the samples have no pred_score, which its items need'):
        GroupAccuracy('val', 'val', items='ece').process({}, bare)
    metric = GroupAccuracy('val', 'val', items=('balanced_accuracy', 'macro_f1'))
    assert evaluate(metric, bare)['id/macro_f1'] == 1  # these need predicted classes only


@pytest.mark.parametrize('topk, fits', [((1, 5), False), ([3], False), (5, False), ((1, 2), True), (1, True)])
def test_top_k_of_mmpretrains_accuracy_needs_k_classes(topk, fits):
    """Found after the first epoch, with a traceback, until now."""
    cfg = Config(dict(model=dict(head=dict(num_classes=2)), val_evaluator=dict(type='Accuracy', topk=topk)))
    if fits:
        check_configured_metrics(cfg, 'val')
    else:
        with pytest.raises(UserError, match=r'val_evaluator\.topk=.*: top \d needs .*num_classes is 2; set topk=1'):
            check_configured_metrics(cfg, 'val')


@pytest.mark.parametrize(
    'items, classes, message',
    [
        ('balanced_acuracy', 2, r"val_evaluator\.items='balanced_acuracy': there is no .* mean 'balanced_accuracy'\?"),
        (['ece', 'roc_auc'], 2, r"val_evaluator\.items='roc_auc': there is no such metric"),
        (['accuracy'], 2, 'it is always reported; leave it out'),
        (['ece', 'auroc'], 17, r"items='auroc' is of two classes and model\.head\.num_classes=17; leave it out"),
        ('average_precision', 3, "items='average_precision' is of two classes"),
        (5, 2, r'val_evaluator\.items=5 is not a list of names'),
        (['auroc', 'macro_f1'], 2, None),
        (['macro_f1'], 17, None),
        ('auroc', None, None),
        ((), 17, None),
    ],
)
def test_config_check_before_training(items, classes, message):
    head = {} if classes is None else dict(num_classes=classes)
    ours = dict(type='GroupAccuracy', id='val', ood='test', items=items)
    for evaluator in (ours, [dict(type='Accuracy'), ours], dict(type='Evaluator', metrics=[ours])):
        cfg = Config(dict(model=dict(head=head), val_evaluator=evaluator))
        if message is None:
            check_configured_metrics(cfg, 'val')
        else:
            with pytest.raises(UserError, match=message):
                check_configured_metrics(cfg, 'val')
