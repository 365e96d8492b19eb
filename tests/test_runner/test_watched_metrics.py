"""What may select, stop or slow a run: a metric that is reported, of ID data, in the right direction, and defined."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric, DumpResults
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.optim import ReduceOnPlateauParamScheduler
from mmpretrain.evaluation import Accuracy

from ftsgd_plugin.evaluation import GroupAccuracy
from ftsgd_plugin.hooks import SafeCheckpointHook
from ftsgd_plugin.runner.watched_metrics import check_watched_metrics
from ftsgd_plugin.utils.errors import UserError

ITEMS = ('balanced_accuracy', 'macro_f1', 'auroc', 'average_precision', 'ece')


class Records(list):
    """A split of a data set; counts how many records are read."""

    def __init__(self, split: str, labels) -> None:
        super().__init__(dict(gt_label=label, group='ab'[i % 2]) for i, label in enumerate(labels))
        self.split, self.read = split, 0

    def get_data_info(self, index: int) -> dict:
        self.read += 1
        return self[index]


def check(*hooks, labels=(0, 0, 1, *[0] * 500), metric=None) -> Records:
    """Check hooks against an evaluation of val (ID), test (OOD) and extra."""
    datasets = [Records('val', labels), Records('test', [0]), Records('extra', [1])]
    metrics = [metric or GroupAccuracy(id='val', ood='test', items=ITEMS, by=('year',))]
    dataset = SimpleNamespace(datasets=datasets)
    loop = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=dataset), evaluator=SimpleNamespace(metrics=metrics), runner=None
    )
    check_watched_metrics(SimpleNamespace(hooks=hooks, param_schedulers=[]), loop)
    return datasets[0]


@pytest.mark.parametrize('name', ITEMS)
def test_each_metric_selects_by_the_rule_that_the_hook_finds(name):
    hook = SafeCheckpointHook(save_best=f'id/{name}')
    check(hook)
    assert hook.rules == ['less' if name == 'ece' else 'greater']
    wrong = SafeCheckpointHook(save_best=f'id/{name}', rule='greater' if name == 'ece' else 'less')
    with pytest.raises(UserError, match=rf"save_best='id/{name}' with rule=.* is worse; set rule='{hook.rules[0]}'"):
        check(wrong)


@pytest.mark.parametrize(
    'key, instead',
    [
        ('ood/accuracy', 'id/accuracy'),
        ('ood/worst_group', 'id/accuracy'),
        ('ood/macro_f1', 'id/macro_f1'),
        ('split/test', 'id/accuracy'),
        ('split/test/auroc', 'id/auroc'),
        ('group/a', 'id/accuracy'),
        ('year/2016', 'id/accuracy'),
    ],
)
def test_ood_data_never_selects(key, instead):
    for hook in (CheckpointHook(save_best=key, rule='greater'), EarlyStoppingHook(monitor=key, rule='greater')):
        with pytest.raises(UserError, match=rf"='{key}' is of the OOD data, which must not select; use '{instead}'"):
            check(hook)


@pytest.mark.parametrize('key', ['split/val', 'split/val/macro_f1', 'split/extra', 'id/accuracy', 'auto'])
def test_other_data_may_select(key):
    check(SafeCheckpointHook(save_best=key, rule='greater'))


def test_a_split_that_is_id_and_ood_selects_by_its_id_number():
    both = GroupAccuracy(id=dict(split='test', weights={'a': 1.0}), ood='test')
    check(SafeCheckpointHook(save_best='split/test', rule='greater'), metric=both)
    with pytest.raises(UserError, match='is of the OOD data'):
        check(SafeCheckpointHook(save_best='ood/accuracy', rule='greater'), metric=both)


@pytest.mark.parametrize('name', ['auroc', 'average_precision'])
def test_a_metric_of_two_classes_needs_both_in_the_id_data(name):
    hook = SafeCheckpointHook(save_best=f'id/{name}')
    assert check(hook).read == 3  # no more than are needed
    with pytest.raises(
        UserError, match=rf"'id/{name}': the ID data .* one class only, for which {name} is not defined"
    ):
        check(hook, labels=[1] * 9)
    of_a = GroupAccuracy(id=dict(split='val', groups=['a']), ood='test', items=ITEMS)
    with pytest.raises(UserError, match='one class only'):
        check(hook, labels=[0, 1] * 5, metric=of_a)
    check(SafeCheckpointHook(save_best='id/balanced_accuracy'), labels=[1] * 9)


def test_a_metric_that_is_not_asked_for_is_not_reported():
    with pytest.raises(UserError, match=r"save_best='id/ece': the validation reports no such metric"):
        check(SafeCheckpointHook(save_best='id/ece'), metric=GroupAccuracy(id='val', ood='test', items='auroc'))


class OfAnotherTask(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results += [sample['pred_instances'] for sample in data_samples]

    def compute_metrics(self, results) -> dict:
        return {'map': 0.0}


def evaluate_with(*metrics, dataset=None) -> SimpleNamespace:
    """A validation loop of a classifier with 3 classes."""
    runner = SimpleNamespace(model=SimpleNamespace(head=SimpleNamespace(num_classes=3)))
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(runner=runner, dataloader=loader, evaluator=SimpleNamespace(metrics=metrics))


@pytest.mark.parametrize(
    'loop, refused',
    [
        (evaluate_with(Accuracy(), DumpResults('a.pkl')), True),  # a dump reports nothing
        (evaluate_with(Accuracy(), OfAnotherTask()), False),  # what that reports is not known
        (evaluate_with(GroupAccuracy(id='val', ood='test'), dataset=SimpleNamespace()), False),  # no splits
        (SimpleNamespace(), False),
    ],
    ids=['dump', 'another task', 'no splits', 'another loop'],
)
def test_only_a_metric_that_is_known_to_be_missing_is_refused(loop, refused):
    runner = SimpleNamespace(hooks=[CheckpointHook(save_best='map', rule='greater')], param_schedulers=None)
    if refused:
        with pytest.raises(UserError, match=r"save_best='map': the validation reports no such metric.*accuracy/top1"):
            check_watched_metrics(runner, loop)
    else:
        check_watched_metrics(runner, loop)


def test_a_scheduler_must_not_follow_ood_data_either():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = ReduceOnPlateauParamScheduler(optimizer, 'lr', 'ood/accuracy', rule='greater')
    runner = SimpleNamespace(hooks=[], param_schedulers=[scheduler])
    with pytest.raises(UserError, match=r"ReduceOnPlateauParamScheduler\.monitor='ood/accuracy' is of the OOD data"):
        check_watched_metrics(runner, evaluate_with(GroupAccuracy(id='val', ood='test')))


@pytest.mark.parametrize('record', [dict(gt_label=0, group='b'), dict(group='a')], ids=['no sample', 'no label'])
def test_without_labels_of_the_id_data_nothing_is_said_about_its_classes(record):
    metric, records = GroupAccuracy(id=dict(split='val', groups=['a']), ood='test', items=ITEMS), Records('val', [])
    records.append(record)
    hook = SafeCheckpointHook(save_best='id/auroc')
    loop = evaluate_with(metric, dataset=SimpleNamespace(datasets=[records, Records('test', [0])]))
    check_watched_metrics(SimpleNamespace(hooks=[hook], param_schedulers=[]), loop)
    assert records.read == 1
