"""GroupAccuracy gives the numbers of wilds' own evaluations on random predictions."""

import random

import pytest
import torch
from helpers.evaluation import evaluate

from ftsgd_plugin.evaluation import GroupAccuracy
from ftsgd_plugin.evaluation.wilds import load_wilds, torch_scatter

NAMES = {
    (y, place): f'{kind}_{ground}'
    for y, kind in enumerate(('landbird', 'waterbird'))
    for place, ground in enumerate(('land', 'water'))
}
TRAIN_COUNTS = {'landbird_land': 3498, 'landbird_water': 184, 'waterbird_land': 56, 'waterbird_water': 1057}


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
