"""GroupAccuracy against the evaluation of wilds, its rules about empty groups, and its check of the splits."""

import random
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from helpers import ROOT
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
from ftsgd_plugin.evaluation.wilds import WildsPredictions, load_wilds, torch_scatter
from ftsgd_plugin.utils.errors import UserError

NAMES = {
    (y, place): f'{kind}_{ground}'
    for y, kind in enumerate(('landbird', 'waterbird'))
    for place, ground in enumerate(('land', 'water'))
}
TRAIN_COUNTS = {'landbird_land': 3498, 'landbird_water': 184, 'waterbird_land': 56, 'waterbird_water': 1057}


def evaluate(metric: GroupAccuracy, rows) -> dict[str, float]:
    """Feed ``(split, group, label, prediction)`` in batches, as the evaluator does."""
    for start in range(0, len(rows), 7):
        samples = [
            dict(split=split, group=group, gt_label=torch.tensor([label]), pred_label=torch.tensor([prediction]))
            for split, group, label, prediction in rows[start : start + 7]
        ]
        metric.process({}, samples)
    return metric.evaluate(len(rows))


@pytest.fixture
def evaluating_wilds(wilds):
    """wilds with the ``torch_scatter`` that its evaluation imports."""
    with torch_scatter():
        yield


def test_waterbirds_equals_wilds_on_random_predictions(evaluating_wilds, tmp_path):
    for seed in range(334):
        compare_waterbirds(tmp_path / str(seed), seed)


def compare_waterbirds(tmp_path, seed):
    from wilds.datasets.waterbirds_dataset import WaterbirdsDataset

    rng = random.Random(seed)
    tmp_path.mkdir()
    root = tmp_path / 'waterbirds_v1.0'
    root.mkdir()
    (root / 'RELEASE_v1.0.txt').touch()
    cells = [(y, place) for y, place in NAMES for _ in range(rng.randint(1, 30))]
    lines = [f'{i},{i}.jpg,{y},2,{place},x' for i, (y, place) in enumerate(cells)]
    (root / 'metadata.csv').write_text('img_id,img_filename,y,split,place,place_filename\n' + '\n'.join(lines))
    oracle = WaterbirdsDataset(root_dir=str(tmp_path), download=False)
    predictions = [rng.randint(0, 1) for _ in cells]
    expected, _ = oracle.eval(torch.tensor(predictions), oracle.y_array, oracle.metadata_array)

    metric = GroupAccuracy(id=dict(split='test', weights=TRAIN_COUNTS), ood='test')
    rows = [('test', NAMES[cell], cell[0], prediction) for cell, prediction in zip(cells, predictions)]
    rng.shuffle(rows)
    found = evaluate(metric, rows)

    assert found['id/accuracy'] == pytest.approx(expected['adj_acc_avg'], abs=1e-6)
    assert found['ood/worst_group'] == pytest.approx(expected['acc_wg'], abs=1e-6)
    for name in NAMES.values():
        kind, ground = name.split('_')
        assert found[f'group/{name}'] == pytest.approx(expected[f'acc_y:{kind}_background:{ground}'], abs=1e-6)
    correct = sum(y == prediction for (y, _), prediction in zip(cells, predictions))
    assert found['ood/accuracy'] == pytest.approx(correct / len(cells))


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


def test_camelyon_equals_wilds_on_random_predictions(evaluating_wilds):
    """WILDS' metric object of Camelyon17: average, every slide, the worst slide."""
    from wilds.common.grouper import CombinatorialGrouper
    from wilds.common.metrics.all_metrics import Accuracy

    for seed in range(333):
        rng = random.Random(seed)
        count = rng.randint(20, 200)
        slides = [rng.choice([20, 21, 25, 29]) for _ in range(count)]
        labels, predictions = ([rng.randint(0, 1) for _ in range(count)] for _ in range(2))

        class Fields:
            _metadata_fields, _metadata_array = ['slide'], torch.arange(50)[:, None]
            _metadata_map, metadata_fields = None, ['slide']
            metadata_array, metadata_map = _metadata_array, None

        grouper = CombinatorialGrouper(Fields, ['slide'])
        groups = grouper.metadata_to_group(torch.tensor(slides)[:, None])
        metric = Accuracy()
        true, predicted = torch.tensor(labels), torch.tensor(predictions)
        average = metric.compute(predicted, true)[metric.agg_metric_field]
        by_slide = metric.compute_group_wise(predicted, true, groups, grouper.n_groups)
        found = evaluate(
            GroupAccuracy(id='test', ood='test'),
            [('test', f'slide_{s}', y, p) for s, y, p in zip(slides, labels, predictions)],
        )
        assert found['ood/accuracy'] == pytest.approx(average, abs=1e-6)
        assert found['ood/worst_group'] == pytest.approx(by_slide[metric.worst_group_metric_field], abs=1e-6)
        for slide in set(slides):
            assert found[f'group/slide_{slide}'] == pytest.approx(by_slide[metric.group_metric_field(slide)], abs=1e-6)


def test_fmow_equals_wilds_on_random_predictions(evaluating_wilds, fmow_root):
    """``FMoWDataset.eval``: average, worst region without Other, worst year."""
    oracle = load_wilds('fmow', str(fmow_root))
    subset = oracle.get_subset('test')
    labels, metadata = subset.y_array, subset.metadata_array
    regions = [oracle._metadata_map['region'][int(i)] for i in metadata[:, 0]]
    years = [int(year) + 2002 for year in metadata[:, 1]]
    for seed in range(333):
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(labels), generator=generator) < 0.5
        predictions = torch.where(wrong, (labels + 1) % 62, labels)
        expected, _ = oracle.eval(predictions, labels, metadata)
        metric = GroupAccuracy(id='test', ood=dict(split='test', groups=['Africa']), by=('year',), not_worst=('Other',))
        samples = [
            dict(split='test', group=r, year=y, gt_label=torch.tensor([int(t)]), pred_label=torch.tensor([int(p)]))
            for r, y, t, p in zip(regions, years, labels, predictions)
        ]
        metric.process({}, samples)
        found = metric.evaluate(len(samples))
        assert found['ood/accuracy'] == pytest.approx(expected['acc_region:Africa'], abs=1e-6)
        assert found['split/test'] == pytest.approx(expected['acc_avg'], abs=1e-6)
        assert found['ood/worst_group'] == pytest.approx(expected['acc_worst_region'], abs=1e-6)
        assert found['ood/worst_year'] == pytest.approx(expected['acc_worst_year'], abs=1e-6)
