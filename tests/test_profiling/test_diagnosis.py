"""tools/diagnose.py: the answer for the demo's config, the evidence behind it, and bad input."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from unittest import mock

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from scipy.stats import rankdata, spearmanr

from ftsgd_plugin.profiling.choice import SGD_BELOW_RATIO, choose_method
from ftsgd_plugin.profiling.diagnosis import full_step_seconds
from ftsgd_plugin.profiling.evidence import correlation, mean_ood, nearest, paper_points
from ftsgd_plugin.profiling.gradients import Gradient, GradientProfile
from ftsgd_plugin.profiling.measure import measure_methods
from ftsgd_plugin.profiling.own_points import OwnPoint, add_points, own_points
from ftsgd_plugin.profiling.phases import ALL_METHODS, COMPARED_METHODS
from ftsgd_plugin.profiling.plots import draw_evidence
from ftsgd_plugin.profiling.predict import MethodPrediction, PhasePrediction

CONFIG = ROOT / 'configs/vit-tiny_freeze-embed_digits.py'


@pytest.fixture
def run_diagnose(run_tool, digits_root, tmp_path):
    def run(*options: str):
        data = f'train_dataloader.dataset.data_root={digits_root}'
        return run_tool(
            'diagnose', CONFIG, '--out', tmp_path / 'out', '--json', tmp_path / 'answer.json', '--batches', '3',
            '--device', 'cpu', *options, '--cfg-options', data,
        )  # fmt: skip

    return run


class Sources(HTMLParser):
    """The resources that a page loads."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key in ('src', 'href')]
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow  # every method; the paper's alone below
def test_answer_for_the_demo(run_diagnose, run_tool, tmp_path):
    points = add_points(tmp_path / 'points.csv', OURS)
    code, err = run_diagnose('--memory', '1GiB', '--points', points)
    assert code == 0, err
    answer = json.loads((tmp_path / 'answer.json').read_text())
    assert answer['recommendation'] == 'freeze-embed' and answer['memory'] == 2**30
    assert answer['ratio'] == pytest.approx(answer['profile']['ratio']) and 0.5 < answer['ratio'] < 1.2
    assert list(answer['methods']) == list(ALL_METHODS) and not answer['left_out']
    for cost in answer['methods'].values():
        assert cost['bytes'] > 2**20 and cost['seconds_per_image'] > 0 and cost['fits'] is True
    assert len(answer['reasons']) == 6 and all(reason.endswith('.') for reason in answer['reasons'])
    assert 'Use freeze-embed.' in run_tool.stdout and '> freeze-embed ' in run_tool.stdout
    assert answer['ours'] == [asdict(point) for point in own_points([points])] and answer['evidence']['own'] == 0
    page = (tmp_path / 'out/diagnosis.html').read_text()
    assert "the correlation are of the paper's points alone" in page and OURS[0].label in page
    sources = Sources(page)
    assert len(sources.found) == 2 and all(source.startswith('data:image/png;base64,') for source in sources.found)
    assert not sources.open and 'http' not in re.sub('data:[^"]*', '', page)


@pytest.mark.slow  # test_predict.py compares the same for more networks
def test_predicted_memory_is_the_counted_memory(run_diagnose, tmp_path):
    assert run_diagnose()[0] == 0
    answer = json.loads((tmp_path / 'answer.json').read_text())
    assert {cost['fits'] for cost in answer['methods'].values()} == {None}
    methods = ('adamw', 'freeze-embed', 'sgd-in-backward')
    measured = measure_methods(
        Config.fromfile(CONFIG), methods, batch_size=32, steps=1, rounds=1, device='cpu', report=lambda line: None
    )
    for measure in measured:
        assert answer['methods'][measure.name]['bytes'] == pytest.approx(measure.peak, rel=0.05)


def gradient(name: str, part: str, norm: float) -> Gradient:
    return Gradient(name, 'block', None, name, part, 10, norm, 0.1, norm / 10**0.5, norm)


def profile(ratio: float) -> GradientProfile:
    groups = (gradient('patch', 'embed', ratio), gradient('block', 'middle', 1.0), gradient('head', 'head', 2.0))
    return GradientProfile('model', 4, 32, groups, groups)


def predicted(name: str, peak: int, flops: int = 320) -> MethodPrediction:
    phase = PhasePrediction(12, 1.0, 0, 0, 0, 0, 0, 0, 0, peak, 'update', flops)
    return MethodPrediction(name, 32, None, (phase,))


PREDICTIONS = [
    predicted('adamw', 1600),
    predicted('sgd', 1200),
    predicted('freeze-embed', 1190, 310),
    predicted('freeze-embed-no-momentum', 800, 310),
    predicted('sgd-in-backward', 500, 310),
    predicted('gradual-unfreezing', 1190, 200),
]


@pytest.mark.parametrize('ratio, memory, expected', [
    (5.0, None, 'freeze-embed'),
    (SGD_BELOW_RATIO * 1.01, None, 'freeze-embed'),
    (0.3, None, 'sgd'),
    (5.0, 1310, 'freeze-embed'),
    (5.0, 1300, 'freeze-embed-no-momentum'),  # 10 % to spare
    (5.0, 600, 'sgd-in-backward'),
    (5.0, 100, 'sgd-in-backward'),
    (0.3, 1310, 'freeze-embed'),
])  # fmt: skip
def test_choice_follows_the_ratio_and_the_memory(ratio, memory, expected):
    answer = choose_method(profile(ratio), PREDICTIONS, 0.01, memory)
    assert answer.recommendation == expected
    assert answer.headline.startswith('No method fits' if memory == 100 else f'Use {expected}')
    text = ' '.join(answer.reasons)
    assert ('--memory' in text) == (memory is None)
    assert ('gives up' in text) == (memory in (1300, 600))
    assert ('batch_size' in text) == (memory == 100)
    assert answer.methods['gradual-unfreezing'].seconds_per_image == pytest.approx(0.01 * 200 / 320)


def test_evidence_is_the_papers_and_its_rank_correlation_is_that_of_the_ranks():
    points = paper_points()
    assert len(points) == 20
    clip = next(p for p in points if (p.model, p.dataset) == ('clip-vit-l14', 'domainnet'))
    assert clip.ratio == pytest.approx(8.472 / 1.8) and clip.freeze_embed_gain == pytest.approx(93.1 - 60.8, abs=0.11)
    found = correlation(points)
    x, y = rankdata([p.ratio for p in points]), rankdata([p.freeze_embed_gain for p in points])
    x, y = x - x.mean(), y - y.mean()
    assert found.spearman == pytest.approx((x @ y) / ((x @ x) * (y @ y)) ** 0.5)
    assert 0.4 < found.spearman < 0.6  # the texts call it a hint
    assert {point.model for point in nearest(points, 0.25)} == {'bit-r50', 'bit-r101'}
    resnets = [p.ratio for p in points if p.model.startswith('bit')]
    largest, smallest = max(resnets), min(p.ratio for p in points if not p.model.startswith('bit'))
    assert largest < SGD_BELOW_RATIO < smallest
    assert pytest.approx((largest * smallest) ** 0.5, rel=0.02) == SGD_BELOW_RATIO
    assert [round(mean_ood(method), 1) for method in ('adamw', 'freeze-embed')] == [76.0, 76.7]


OURS = [
    OwnPoint('small', 'cells', 224, 'gpu', 1.7, 3.7, -11.0, -0.1, 4.7, -10.7, 3, '2026-11-26'),
    OwnPoint('small', 'other', 224, 'gpu', 1.5, 9.9, -3.0, 20.4, 9.9, 6.6, 2, '2026-11-26'),
]


def test_our_points_are_shown_and_count_only_if_they_are_included():
    without, shown, counted = (
        choose_method(profile(1.6), PREDICTIONS, 0.01, None, ours, include)
        for ours, include in (([], False), (OURS, False), (OURS, True))
    )
    assert without.evidence == shown.evidence == correlation(paper_points()) and shown.paper == counted.paper
    assert shown.reasons[:3] == without.reasons[:3] and len(shown.reasons) == len(without.reasons) + 1
    assert 'not counted above' in shown.reasons[3]
    assert 'ratios 1.50 to 1.70' in shown.reasons[3] and '-11.0 to -3.0 OOD' in shown.reasons[3]
    assert (counted.evidence.points, counted.evidence.own) == (22, 2)
    ratios, gains = (
        [getattr(point, key) for point in (*paper_points(), *OURS)] for key in ('ratio', 'freeze_embed_gain')
    )
    assert counted.evidence.spearman == pytest.approx(spearmanr(ratios, gains).statistic)
    assert 'In the 6 experiments of the paper and ours (2)' in counted.reasons[1] and 'small' in counted.reasons[1]
    assert 'the threshold is of the paper alone' in counted.reasons[3]
    assert choose_method(profile(0.3), PREDICTIONS, 0.01, None, OURS, True).recommendation == 'sgd'


@pytest.mark.parametrize('included', [False, True])
def test_our_points_have_another_mark_and_a_legend(included, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr('ftsgd_plugin.profiling.plots.save_figure', lambda figure, path: drawn.append(figure))
    draw_evidence(paper_points(), 1.6, 'model', tmp_path / 'a.png', OURS, included)
    (axes,) = drawn[0].axes
    stars = {line.get_label(): line for line in axes.lines if line.get_marker() == '*'}
    assert list(stars) == ['ours, OOD', 'ours, ID accuracy']
    assert list(stars['ours, OOD'].get_ydata()) == [-11.0, -3.0]
    assert list(stars['ours, ID accuracy'].get_ydata()) == [3.7, 9.9]
    assert {'ours, OOD', 'bit-r50'} <= {text.get_text() for text in axes.get_legend().get_texts()}
    title = axes.get_title(loc='left')
    assert ('22 points' in title) == included and ('without the stars' in title) != included
    draw_evidence(paper_points(), 1.6, 'model', tmp_path / 'b.png')
    assert not [line for line in drawn[1].axes[0].lines if line.get_marker() == '*']


@pytest.mark.parametrize('options, message', [
    (['--points', 'nowhere.csv'], 'nowhere.csv: cannot be read'),
    (['--memory', 'much'], "'much' is not a memory size"),
    (['--batches', '0'], "'0' is not a positive whole number"),
    (['--json', 'nowhere/answer.json'], 'nowhere/answer.json: its directory does not exist'),
])  # fmt: skip
def test_bad_options(run_tool, options, message):
    code, err = run_tool('diagnose', CONFIG, *options)
    assert code == 2 and message in err.splitlines()[-1] and 'Traceback' not in err


def test_bad_configs(run_tool, tmp_path):
    code, err = run_tool('diagnose', 'no.py')
    assert code == 2 and err.startswith('error: no.py: no such config')
    code, err = run_tool('diagnose', CONFIG, '--out', tmp_path, '--cfg-options', 'train_dataloader.dataset.data_root=x')
    assert code == 2 and 'x/metadata.csv: not found' in err.splitlines()[-1]


def test_model_that_does_not_fit_the_gpu_is_measured_on_the_cpu(run_diagnose, tmp_path):
    """Users need the answer most when full fine-tuning runs out of memory."""
    first = [torch.OutOfMemoryError('CUDA out of memory')]

    def step(*args, **kwargs):
        if first:
            raise first.pop()
        return full_step_seconds(*args, **kwargs)

    patched = dict(ALL_METHODS=COMPARED_METHODS)  # fewer to predict
    with (
        mock.patch('ftsgd_plugin.profiling.diagnosis.full_step_seconds', step),
        mock.patch.multiple('ftsgd_plugin.profiling.diagnosis_page', **patched),
    ):
        code, err = run_diagnose('--memory', '17MiB')
    assert code == 0 and 'does not fit the GPU at this batch size; measuring on the CPU' in err
    assert json.loads((tmp_path / 'answer.json').read_text())['recommendation'] == 'freeze-embed-no-momentum'
