"""Which prediction is evaluated: that of the scores, as MMPretrain's Accuracy does, and none for scores of NaN."""

import sys
import types

import pytest
import torch
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import AverageClsScoreTTA
from mmpretrain.structures import DataSample

from ftsgd_plugin.datasets import Waterbirds
from ftsgd_plugin.evaluation import GroupAccuracy
from ftsgd_plugin.evaluation.wilds import WildsPredictions, import_wilds, load_wilds, torch_scatter
from ftsgd_plugin.utils.errors import DivergedError, UserError

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


def test_without_wilds_the_files_are_written_and_the_official_metrics_left_out(tmp_path, monkeypatch, caplog):
    class Split(list):
        split, data_root = 'test', 'nowhere/waterbirds_v1.0'
        get_data_info = list.__getitem__

    monkeypatch.setitem(sys.modules, 'wilds', None)
    with pytest.raises(UserError, match=r"need the wilds package \(.*\); run: pip install 'ftsgd_plugin\[wilds\]'"):
        import_wilds()
    metric = WildsPredictions([Waterbirds('nowhere', 'test', lazy_init=True)], str(tmp_path))
    metric.datasets = [Split([dict(img_path='b.jpg'), dict(img_path='a.jpg')])]
    assert metric.compute_metrics([('test', 'a.jpg', 1), ('test', 'b.jpg', 0)]) == {}
    (file,) = tmp_path.iterdir()
    assert file.read_text().split() == ['0', '1']


@pytest.mark.parametrize(
    'name, message', [('birds', 'reads a directory named waterbirds_v1.0 only'), ('waterbirds_v1.0', 'does not find')]
)
def test_a_directory_that_wilds_does_not_accept_is_one_line(tmp_path, monkeypatch, name, message):
    def get_dataset(*args, **options):
        raise FileNotFoundError

    monkeypatch.setitem(sys.modules, 'wilds', types.SimpleNamespace(get_dataset=get_dataset))
    with pytest.raises(UserError, match=message) as error:
        load_wilds('waterbirds', str(tmp_path / name))
    assert '\n' not in str(error.value)


def test_an_installed_torch_scatter_is_used_as_it_is(monkeypatch):
    monkeypatch.delitem(sys.modules, 'torch_scatter', raising=False)
    with torch_scatter():
        scatter = sys.modules['torch_scatter'].scatter
        values, groups = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2])
        assert scatter(values, groups, dim_size=3, reduce='mean').tolist() == [2, 0, 5]
        with pytest.raises(NotImplementedError, match="reduce='max'"):
            scatter(values, groups, dim_size=3, reduce='max')
    assert 'torch_scatter' not in sys.modules
    installed = types.ModuleType('torch_scatter')
    monkeypatch.setitem(sys.modules, 'torch_scatter', installed)
    with torch_scatter():
        assert sys.modules['torch_scatter'] is installed
