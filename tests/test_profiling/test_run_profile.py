"""Where the time of a run goes: parts that add up, delays that are found where they are, and an unchanged training."""

import functools
import json
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmpretrain.models import ClsDataPreprocessor, LinearClsHead

from ftsgd_plugin.datasets.digits import DIGITS_PER_SPLIT, IMAGES_PER_DIGIT
from ftsgd_plugin.datasets.transforms import LoadRGBImage, PackRGB
from ftsgd_plugin.evaluation.group_accuracy import GroupAccuracy
from ftsgd_plugin.hooks import HostMemoryHook
from ftsgd_plugin.optim.state import tensor_bytes
from ftsgd_plugin.profiling import run_limits
from ftsgd_plugin.profiling.peaks import Peaks
from ftsgd_plugin.profiling.run_limits import STEP, Limit, advise
from ftsgd_plugin.profiling.run_profile import PARTS, TOLERANCE, RunProfile, profile_run
from ftsgd_plugin.profiling.run_profile_page import write_profile
from ftsgd_plugin.runner.run import train

DEMO = ROOT / 'configs/vit-tiny_freeze-embed_digits.py'
STEPS, WARMUP, BATCH, EVALUATED = 5, 2, 8, 12
DELAY = 0.004
# What is slowed down, and the part that it belongs to.
DELAYED = (
    (LoadRGBImage, 'transform', 'data/decode'),
    (PackRGB, 'transform', 'data/transform'),
    (ClsDataPreprocessor, 'forward', 'copy'),
    (LinearClsHead, 'loss', 'forward'),
    (OptimWrapper, 'backward', 'backward'),
    (torch.optim.SGD, 'step', 'optimizer/update'),
    (HostMemoryHook, 'after_train_iter', 'hooks/HostMemoryHook'),
    (LinearClsHead, 'predict', 'evaluation/forward'),
    (GroupAccuracy, 'process', 'evaluation/metric'),
    (Runner, 'save_checkpoint', 'checkpoint/writing'),
)


@pytest.fixture(scope='module')
def config(digits_root, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('profiled') / 'demo.py'
    path.write_text(
        f'_base_ = {str(DEMO)!r}\ndata_root = {str(digits_root)!r}\n'
        f'train_dataloader = dict(batch_size={BATCH}, dataset=dict(data_root=data_root))\n'
        'val_dataloader = dict(dataset=dict(datasets=[dict('
        "type='Waterbirds', data_root=data_root, split=split, metainfo={{_base_.metainfo}}, "
        "pipeline={{_base_.test_pipeline}}) for split in ('val', 'test')]))\n"
        'test_dataloader = val_dataloader\n'
    )
    return str(path)


@pytest.fixture(scope='module')
def profiled(config, tmp_path_factory) -> SimpleNamespace:
    """A profile of the demo in which known calls take longer, and what each of those calls has cost."""
    directory, calls, losses = tmp_path_factory.mktemp('profile'), Counter(), []

    def slow(function, part):
        if getattr(function, 'hooked', False):  # by an optimizer of an earlier test; the delay belongs inside the hooks
            function = function.__wrapped__

        @functools.wraps(function)
        def slower(*args, **kwargs):
            calls[part] += 1
            end = time.perf_counter() + DELAY
            while time.perf_counter() < end:
                pass
            if part == 'backward':
                losses.append(float(args[1].detach()))
            return function(*args, **kwargs)

        return slower

    with pytest.MonkeyPatch.context() as patch:
        for kind, name, part in DELAYED:
            patch.setattr(kind, name, slow(getattr(kind, name), part))
        lines = []
        start = time.perf_counter()
        profile = write_profile(
            config, directory, directory / 'p.json', STEPS, EVALUATED, WARMUP, None, start, lines.append
        )
        elapsed = time.perf_counter() - start
    return SimpleNamespace(
        profile=profile, calls=calls, losses=losses, lines=lines, elapsed=elapsed, directory=directory
    )


def test_parts_add_up_to_the_wall_time(profiled):
    profile = profiled.profile
    total = sum(profile.seconds.values())
    assert sum(map(profile.part, PARTS)) == pytest.approx(total)
    assert total == pytest.approx(profile.wall_seconds, rel=TOLERANCE)
    assert total <= profiled.elapsed
    assert profile.probe_seconds < TOLERANCE * profile.wall_seconds


@pytest.mark.parametrize('part', [part for _, _, part in DELAYED])
def test_a_delay_is_found_in_its_part(profiled, part):
    calls = {
        'data/decode': (STEPS - WARMUP) * BATCH,
        'data/transform': (STEPS - WARMUP) * BATCH,
        'evaluation/forward': 1,
        'evaluation/metric': 1,
        'checkpoint/writing': 3,  # the last one, again with the scores, and the best one
    }.get(part, STEPS - WARMUP)
    # The first steps, which belong to the start-up, and the evaluation call some of these functions too.
    assert profiled.calls[part] >= calls
    assert profiled.profile.seconds[part] >= calls * DELAY


def test_training_is_what_it_would_have_been(profiled, config, tmp_path, monkeypatch):
    losses, backward = [], OptimWrapper.backward

    class Enough(Exception):
        pass

    def noted(self, loss, **kwargs):
        losses.append(float(loss.detach()))
        if len(losses) == STEPS:
            raise Enough
        backward(self, loss, **kwargs)

    monkeypatch.setattr(OptimWrapper, 'backward', noted)
    with pytest.raises(Enough):
        train(config, work_dir=str(tmp_path))
    assert losses == profiled.losses and len(set(losses)) == STEPS


def test_counts_and_numbers_follow_from_the_config(profiled):
    profile = profiled.profile
    assert (profile.steps, profile.images, profile.evaluated) == (STEPS - WARMUP, (STEPS - WARMUP) * BATCH, EVALUATED)
    assert profile.checkpoints == 3 and profile.checkpoint_bytes > 3 * 4 * 300_000
    assert profile.flops_per_image == pytest.approx(
        profile.limits['forward'].seconds * profile.peaks.flops / BATCH * 3, rel=0.1
    )
    assert profile.utilisation == pytest.approx(
        profile.flops_per_image * profile.images / sum(map(profile.part, STEP)) / profile.peaks.flops
    )
    assert profile.limits['data'].seconds >= BATCH * 2 * DELAY / profile.cores  # decoding and packing of each image
    images = {split: count * IMAGES_PER_DIGIT for split, count in DIGITS_PER_SPLIT.items()}
    epochs, length = 8, -(-images['train'] // BATCH)
    assert profile.whole_run['data'] == pytest.approx(profile.part('data') / profile.steps * epochs * length)
    evaluated = epochs * (images['val'] + images['test'])
    assert profile.whole_run['evaluation'] == pytest.approx(profile.part('evaluation') / EVALUATED * evaluated)
    assert profile.whole_run['start-up'] == profile.part('start-up')


def test_what_is_written(profiled):
    directory, profile = profiled.directory, profiled.profile
    assert sorted(path.name for path in directory.iterdir()) == ['p.json', 'profile.md', 'profile.png']
    data = json.loads((directory / 'p.json').read_text())
    assert data['parts'] == {part: profile.part(part) for part in PARTS}
    assert data['utilisation'] == profile.utilisation and torch.__version__.startswith(data['environment']['torch'])
    shown = [line.split()[0] for line in profiled.lines if line and line[0] != ' ']  # not the details
    assert [part for part in PARTS if profile.part(part)] == [word for word in shown if word in PARTS]
    assert sum(line.startswith('first: ') for line in profiled.lines) == 1
    assert 'measuring took' in '\n'.join(profiled.lines)


@pytest.mark.parametrize('optimizer, per_parameter', [('momentum', 20), ('none', 12), ('adamw', 28)])
def test_an_update_moves_the_bytes_of_its_formula(optimizer, per_parameter):
    """SGD reads weights and gradients and writes weights; momentum and moments are read and written."""
    from ftsgd_plugin.optim.state import optimizer_state_bytes
    from ftsgd_plugin.profiling.probes import update_bytes

    model = torch.nn.Linear(50, 40, bias=False)
    kinds = {
        'momentum': lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        'none': lambda params: torch.optim.SGD(params, lr=0.1),
        'adamw': torch.optim.AdamW,
    }
    built = kinds[optimizer](model.parameters())
    model(torch.ones(2, 50)).sum().backward()
    built.step()
    moved = update_bytes(list(model.parameters()), built)
    counters = optimizer_state_bytes(built) % 8000  # AdamW's step count
    assert moved - 2 * counters == per_parameter * 2000
    assert tensor_bytes(model.parameters()) == 8000


def situation(workers=0, images=320, **whole) -> SimpleNamespace:
    """Numbers of a run of 10 steps of 32 images, 1 ms of one core each."""
    length = SimpleNamespace(steps=10, batch_size=32, workers=workers, validations=8, evaluated=100)
    whole = dict.fromkeys(PARTS, 0.0) | whole
    ledger = SimpleNamespace(seconds={'hooks/SlowHook': whole['hooks']})
    probes = SimpleNamespace(length=length, steps=10, ledger=ledger)
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW'))))
    limits = {'forward': Limit(0.1, ''), 'backward': Limit(0.2, ''), 'optimizer': Limit(0.01, '')}
    return SimpleNamespace(cfg=cfg, probes=probes, limits=limits, whole=whole)


@pytest.mark.parametrize(
    'case, on_gpu, expected',
    [
        (dict(data=8.0, forward=1.0, backward=1.0), True, 'train_dataloader.num_workers=1 (now 0)'),
        (dict(data=8.0, workers=15, forward=0.01, backward=0.01), True, 'busy with data (75% of it decoding)'),
        (dict(evaluation=50.0, forward=3.0, backward=6.0), False, 'train_cfg.val_interval: saves up to 25 s of 59 s'),
        (dict(checkpoint=50.0, forward=3.0, backward=6.0), False, 'default_hooks.checkpoint.interval'),
        (dict(optimizer=9.0, forward=3.0, backward=6.0), False, 'optimizer.fused=True: saves up to 8.9 s'),
        (dict(hooks=9.0, forward=3.0, backward=6.0), False, 'SlowHook is the slowest hook'),
        (dict(forward=4.0, backward=8.0), True, "at 25% of the peak of float32: optim_wrapper.type='AmpOptimWrapper'"),
        (
            dict(forward=3.0, backward=6.0),
            False,
            'nothing: no change known here saves 3%; forward and backward are 100%',
        ),
        ({'forward': 1.0, 'start-up': 9.0}, False, 'nothing in the run: 90% of it is start-up'),
    ],
)
def test_the_advice_is_what_saves_most(case, on_gpu, expected):
    workers = case.pop('workers', 0)
    now = situation(workers, **case)
    seconds = {'decode': 0.00075, 'transform': 0.00025}
    peaks = Peaks('', 'float32', 1e12, 1e12, 1e10, '')
    found = advise(now.cfg, now.probes, now.limits, now.whole, seconds, 16, peaks, on_gpu)
    assert expected in found


def test_a_slow_disk_is_measured_and_left_clean(tmp_path):
    assert run_limits.disk_rate(tmp_path, 1000) > 0
    assert list(tmp_path.iterdir()) == []


def test_workers_are_timed_where_they_work(config, tmp_path):
    """Their seconds are beside the run; in it is only what the training waits for them."""
    options = {'train_dataloader.num_workers': 1}
    profile = profile_run(config, tmp_path, 3, 4, 0, options)
    assert isinstance(profile, RunProfile) and profile.workers == 1
    assert set(profile.core_seconds_per_image) == {'decode', 'transform', 'collate'}
    assert all(0 < seconds < 1 for seconds in profile.core_seconds_per_image.values())
    assert {key for key in profile.seconds if key.startswith('data/')} == {'data/wait'}
    assert sum(profile.seconds.values()) == pytest.approx(profile.wall_seconds, rel=TOLERANCE)
