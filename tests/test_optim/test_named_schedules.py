"""The curves beside the paper's against torch's schedulers, and what opens per stage, to a depth and from below."""

import math

import pytest
from helpers.schedule_places import CONVNET, VIT, open_layers, torch_rates
from torch.optim import lr_scheduler

from ftsgd_plugin.optim.schedules import make_schedule
from ftsgd_plugin.utils.errors import UserError

TOTAL, FIRST = 9, math.exp(3.73)


def schedule(places=VIT, total=TOTAL, **options):
    held = {key: options.pop(key) for key in ('decay', 'warmup', 'cooldown') if key in options}
    return make_schedule('S', places, total, options, **held)


@pytest.mark.parametrize('curve, make', [
    ('linear', lambda o: lr_scheduler.LinearLR(o, 1.0, 1 / FIRST, TOTAL - 1)),
    ('cosine', lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL - 1, eta_min=1.0)),
    ('paper', lambda o: lr_scheduler.ExponentialLR(o, math.exp(-3.73 / (TOTAL - 1)))),
])  # fmt: skip
def test_the_rate_of_every_curve_is_that_of_torchs_scheduler(curve, make):
    found = schedule(schedule=curve)
    assert [found.factors(step)[0] for step in range(TOTAL)] == pytest.approx(torch_rates(make, TOTAL, FIRST), rel=1e-9)
    assert len(found.factors(0)) == len(VIT)


def test_what_opens_follows_the_curve():
    opened = {curve: [schedule(schedule=curve, total=5).open_blocks(step) for step in range(5)]
              for curve in ('paper', 'linear', 'cosine')}  # fmt: skip
    assert opened == {'paper': [0, 1, 2, 3, 4], 'linear': [0, 1, 2, 3, 4], 'cosine': [0, 0, 2, 3, 4]}
    held = schedule(schedule='cosine', warmup=2, cooldown=3)
    assert [held.open_blocks(step) for step in range(TOTAL)] == [0, 0, 0, 1, 3, 4, 4, 4, 4]
    assert held.factors(1) == held.factors(0) and held.factors(TOTAL - 3) == [1.0] * len(VIT)


def test_stages_open_at_once():
    found = schedule(CONVNET, total=4, per='stage')
    assert [found.open_blocks(step) for step in range(4)] == [0, 1, 4, 6]
    assert open_layers(found, 1, CONVNET) == {'head', 'stages.2.blocks.5'}
    assert [schedule(per='stage').open_blocks(step) for step in range(TOTAL)] == [
        schedule().open_blocks(step) for step in range(TOTAL)
    ]  # every block of a ViT is a stage


def test_no_more_than_max_depth_opens():
    found = schedule(max_depth=2)
    assert [found.open_blocks(step) for step in range(TOTAL)] == [2 * step // 8 for step in range(TOTAL)]
    assert open_layers(found, TOTAL + 5) == {
        'head',
        'post_norm',
        *(f'blocks.{i}.{p}' for i in (2, 3) for p in ('attn', 'mlp')),
    }
    assert schedule(max_depth=0).open_blocks(TOTAL) == 0
    assert [schedule(CONVNET, 3, per='stage', max_depth=1).open_blocks(step) for step in range(3)] == [0, 0, 1]


def test_bottom_up_opens_from_the_input():
    found = schedule(order='bottom-up', total=5)
    assert open_layers(found, 0) == {'head'}
    assert open_layers(found, 1) == {'head', 'pos_embed', 'blocks.0.attn', 'blocks.0.mlp'}
    assert 'post_norm' not in open_layers(found, 3)
    assert open_layers(found, 4) == {place.layer for group in VIT for place in group}


@pytest.mark.parametrize('options, message', [
    (dict(per='stages'), "per='stages' is none of 'block', 'stage'; correct it"),
    (dict(order='up'), "order='up' is none of 'top-down', 'bottom-up'; correct it"),
    (dict(max_depth=-1), 'max_depth=-1 is not a whole number >= 0'),
    (dict(max_depth=True), 'max_depth=True is not a whole number'),
    (dict(schedule={'phases': [{'layers': 'rest'}]}, max_depth=2), 'max_depth belongs to the named schedules'),
    (dict(schedule={'phases': [{'layers': 'rest'}]}, warmup=2), 'warmup belongs to the named schedules'),
])  # fmt: skip
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        schedule(**options)


@pytest.mark.parametrize('unit', ['epochs', 'steps'])
@pytest.mark.parametrize('places', [VIT, CONVNET], ids=['vit', 'convnet'])
@pytest.mark.parametrize('options', [
    {}, dict(schedule='linear'), dict(schedule='cosine'), dict(per='stage'), dict(max_depth=2), dict(order='bottom-up'),
    dict(warmup=2, cooldown=1, decay=1.0), dict(total=1), dict(total=30),
], ids=repr)  # fmt: skip
def test_a_named_schedule_written_in_phases_is_the_same_in_every_bit(options, places, unit):
    found = schedule(places, **options)
    total = options.get('total', TOTAL)
    again = make_schedule('S', places, total, {'schedule': found.document(unit)}, by_epoch=unit == 'epochs')
    for step in range(-1 if total > 1 else 0, total + 2):  # before one single step named schedules train the head
        assert again.factors(step) == found.factors(step)
        assert open_layers(again, step, places) == open_layers(found, step, places)
        assert again.open_blocks(step) == found.open_blocks(step)
    assert again.stretches() == found.stretches()
