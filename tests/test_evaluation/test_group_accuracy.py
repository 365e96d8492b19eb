"""GroupAccuracy: its rules about empty groups, several processes, and its check of the splits."""

from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from helpers import ROOT
from helpers.evaluation import evaluate
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmpretrain.registry import METRICS
from torch.utils.data import ConcatDataset, DataLoader

from ftsgd_plugin.datasets import Waterbirds
from ftsgd_plugin.datasets.base import META_KEYS
from ftsgd_plugin.evaluation import GroupAccuracy
from ftsgd_plugin.evaluation.checks import check_configured_splits, check_evaluated_splits
from ftsgd_plugin.evaluation.wilds import WildsPredictions
from ftsgd_plugin.utils.errors import UserError

ROWS = [
    ('val', 'a', 0, 0),
    ('val', 'a', 0, 1),
    ('val', 'b', 1, 1),
    ('val', 'b', 1, 1),
    ('test', 'a', 0, 0),
    ('test', 'a', 0, 0),
    ('test', 'a', 0, 0),
    ('test', 'b', 1, 0),
    ('extra', 'c', 1, 0),
]


def test_one_pass_reports_id_ood_groups_and_splits():
    assert evaluate(GroupAccuracy(id='val', ood='test'), ROWS) == {
        'id/accuracy': 0.75,
        'ood/accuracy': 0.75,
        'ood/worst_group': 0.0,
        'group/a': 1.0,
        'group/b': 0.0,
        'split/extra': 0.0,
        'split/test': 0.75,
        'split/val': 0.75,
    }


def test_absent_group_never_counts_as_zero():
    found = evaluate(GroupAccuracy(id='val', ood='test'), [row for row in ROWS if row[:2] != ('test', 'b')])
    assert found['ood/worst_group'] == 1.0
    assert 'group/b' not in found


def test_reported_group_beside_the_worst_of_all():
    found = evaluate(GroupAccuracy(id='val', ood=dict(split='test', groups=['a'])), ROWS)
    assert found['ood/accuracy'] == 1.0 and found['ood/worst_group'] == 0.0


def test_group_that_is_never_the_worst():
    found = evaluate(GroupAccuracy(id='val', ood='test', not_worst=['b']), ROWS)
    assert found['ood/worst_group'] == 1.0 and found['group/b'] == 0.0


def test_weights_renormalise_over_the_groups_that_occur():
    weights = {'a': 3.0, 'b': 1.0, 'never': 100.0}
    found = evaluate(GroupAccuracy(id=dict(split='val', weights=weights), ood='test'), ROWS)
    assert found['id/accuracy'] == pytest.approx((3 * 0.5 + 1 * 1.0) / 4)


def test_keys_have_no_prefix():
    metric = METRICS.build(dict(type='mmpretrain.GroupAccuracy', id='val', ood='test'))
    assert 'id/accuracy' in evaluate(metric, ROWS)


def sharded_dataset() -> ConcatDataset:
    """33 samples of val, a third of them right, and 100 of test: all 50 of group a right, 20 of group b's 50."""
    val = [('val', 'a', 0, int(i % 3 > 0)) for i in range(33)]
    test = [('test', 'ab'[i % 2], 1, int(i % 2 == 0 or i < 40)) for i in range(100)]
    return ConcatDataset([val, test])


def scored_dataset() -> ConcatDataset:
    """97 samples of val and 100 of test with labels and scores of two classes, some scores equal."""
    generator = torch.Generator().manual_seed(0)
    tops = torch.rand(197, generator=generator).mul(40).round().div(40)
    labels = torch.randint(2, (197,), generator=generator).tolist()
    rows = [('ab'[i % 2], label, torch.stack([1 - top, top])) for i, (label, top) in enumerate(zip(labels, tops))]
    return ConcatDataset([[(split, *row) for row in part] for split, part in (('val', rows[:97]), ('test', rows[97:]))])


ITEMS = ('balanced_accuracy', 'macro_f1', 'auroc', 'average_precision', 'ece')


def evaluate_a_shard(dataset: ConcatDataset, predicted: str = 'pred_label', items=()) -> dict[str, float]:
    """Evaluate as MMEngine's test loop does in each process."""
    metric = GroupAccuracy(id='val', ood='test', items=items)
    evaluator = Evaluator(metric)
    for rows in DataLoader(dataset, 8, sampler=DefaultSampler(dataset, shuffle=False), collate_fn=list):
        keys = ('split', 'group', 'gt_label', predicted)
        evaluator.process([dict(zip(keys, (*row[:2], *map(torch.as_tensor, row[2:])))) for row in rows])
    return {'seen': len(metric.results), **evaluator.evaluate(len(dataset))}


def evaluate_shards() -> tuple[dict, dict]:
    return evaluate_a_shard(sharded_dataset()), evaluate_a_shard(scored_dataset(), 'pred_score', ITEMS)


def _shard_worker(rank: int, directory: str) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{directory}/store', rank=rank, world_size=2)
    torch.save(evaluate_shards(), f'{directory}/{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.mark.multiprocess
def test_two_processes_report_the_same_as_one_of_133_samples(tmp_path):
    """MMEngine's sampler repeats a sample so that both have 67; it must not count twice. Further metrics, exactly."""
    alone, further = evaluate_shards()
    assert alone == {
        'seen': 133,
        'id/accuracy': 11 / 33,
        'ood/accuracy': 0.7,
        'ood/worst_group': 0.4,
        'group/a': 1.0,
        'group/b': 0.4,
        'split/test': 0.7,
        'split/val': 11 / 33,
    }
    mp.start_processes(_shard_worker, (str(tmp_path),), nprocs=2, start_method='fork')
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pt') == ({**alone, 'seen': 67}, {**further, 'seen': 99})
    assert further['seen'] == 197 and {f'id/{name}' for name in ITEMS} <= further.keys()


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(id='val', ood='tset'),
            r"no sample belongs to ood=\{'split': 'tset'\}; evaluated splits: extra, test, val",
        ),
        (dict(id=dict(split='val', groups=['z']), ood='test'), 'none of the groups of id='),
        (dict(id=dict(split='val', weights={'z': 1.0}), ood='test'), 'none of the weighted groups z occurs'),
    ],
)
def test_empty_subset_is_an_error_not_a_zero(options, message):
    with pytest.raises(UserError, match=message):
        evaluate(GroupAccuracy(**options), ROWS)


@pytest.mark.parametrize(
    'option, message',
    [(dict(splits='val'), "has the unknown key 'splits'"), (dict(groups=['a']), 'does not name a split')],
)
def test_malformed_subset_is_refused_at_build_time(option, message):
    with pytest.raises(UserError, match=message):
        GroupAccuracy(id=option, ood='test')


@pytest.mark.parametrize(
    'metric, missing, meta_keys',
    [
        (GroupAccuracy(id='val', ood='test'), 'split', "'img_path', 'split', 'group'"),
        (GroupAccuracy(id='val', ood='test', by=('year',)), 'year', "'img_path', 'split', 'group', 'year'"),
        (WildsPredictions([Waterbirds('x', 'test', lazy_init=True)], 'predictions'), 'img_path', "'img_path', 'split'"),
    ],
)
def test_a_missing_field_names_the_meta_keys_to_set(metric, missing, meta_keys):
    known = {} if missing != 'year' else dict(split='val', group='a')
    sample = dict(gt_label=torch.tensor([0]), pred_label=torch.tensor([0]), **known)
    with pytest.raises(UserError) as error:
        metric.process({}, [sample])
    assert f'the samples lack {missing!r}; set meta_keys=({meta_keys}' in str(error.value)


PARTS = sorted((ROOT / 'configs/_base_/datasets').glob('*.py'))


@pytest.mark.parametrize('part', PARTS, ids=lambda path: path.stem)
def test_configs_hand_on_the_fields_that_the_metric_needs(part):
    """Config files write the keys out; the package defines them once."""
    cfg = Config.fromfile(part)
    by = tuple(cfg.val_evaluator.get('by', ()))
    datasets = cfg.val_dataloader.dataset.datasets
    assert datasets
    for dataset in datasets:
        assert dataset.pipeline[-1].type == 'PackInputs'
        assert tuple(dataset.pipeline[-1].meta_keys) == META_KEYS + by


def _runner(digits_config, **options) -> Runner:
    """MMEngine's own runner, as MMPretrain's tools/train.py and tools/test.py build it."""
    return Runner.from_cfg(digits_config(subset=64, launcher='none', **options))


@pytest.mark.parametrize('option', ['id', 'ood'])
def test_a_misspelt_split_is_found_before_the_first_epoch(digits_config, monkeypatch, option):
    runner = _runner(digits_config, **{f'val_evaluator.{option}': 'valid'})
    monkeypatch.setattr(type(runner), '_init_model_weights', lambda self: pytest.fail('the run has started'))
    message = rf"val_evaluator\.{option}: split 'valid' is not in val_dataloader \(val, test\); correct one of them"
    with pytest.raises(UserError, match=message):
        runner.train()


def test_a_misspelt_split_is_found_before_the_test(digits_config, monkeypatch):
    runner = _runner(digits_config, **{'test_evaluator.ood': 'tset', 'val_evaluator.id': 'not used by this run'})
    monkeypatch.setattr(type(runner), 'load_or_resume', lambda self: pytest.fail('the run has started'))
    with pytest.raises(UserError, match=r"test_evaluator\.ood: split 'tset' is not in test_dataloader \(val, test\)"):
        runner.test()


@pytest.mark.parametrize(
    'dataset, accepted',
    [
        (SimpleNamespace(split='val'), False),
        (SimpleNamespace(datasets=[SimpleNamespace(split='val'), SimpleNamespace(split='test')]), True),
        (SimpleNamespace(dataset=SimpleNamespace(datasets=[SimpleNamespace(split='val')])), False),
        (SimpleNamespace(datasets=[SimpleNamespace(split='val'), SimpleNamespace()]), True),  # its records may have one
    ],
    ids=['single', 'concatenated', 'wrapped', 'unknown'],
)
def test_splits_of_every_kind_of_dataset(dataset, accepted):
    metrics = [object(), GroupAccuracy(id='val', ood='test')]
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset), evaluator=SimpleNamespace(metrics=metrics))
    if accepted:
        check_evaluated_splits(loop, 'val')
    else:
        with pytest.raises(UserError, match=r"val_evaluator\.ood: split 'test' is not in val_dataloader \(val\)"):
            check_evaluated_splits(loop, 'val')


LEAF = dict(type='Waterbirds', split='val')
KIND = dict(type='GroupAccuracy', id='val', ood='test')


@pytest.mark.parametrize(
    'dataset, evaluator, accepted',
    [
        (LEAF, KIND, False),
        (dict(dataset=dict(datasets=[LEAF])), [dict(type='Accuracy'), KIND], False),
        (LEAF, {**KIND, 'type': GroupAccuracy}, False),
        (dict(datasets=[LEAF, dict(split='test')]), KIND, True),
        (dict(datasets=[LEAF, dict(type='Mine')]), KIND, True),  # its records may have one
        (LEAF, dict(type='Accuracy'), True),
        (LEAF, None, True),
    ],
    ids=['single', 'wrapped', 'class', 'concatenated', 'unknown', 'other metric', 'no metric'],
)
def test_splits_of_every_kind_of_config(dataset, evaluator, accepted):
    cfg = Config(dict(test_dataloader=dict(dataset=dataset), test_evaluator=evaluator))
    check_configured_splits(cfg, 'val')
    if accepted:
        check_configured_splits(cfg, 'test')
    else:
        with pytest.raises(UserError, match=r"test_evaluator\.ood: split 'test' is not in test_dataloader \(val\)"):
            check_configured_splits(cfg, 'test')
