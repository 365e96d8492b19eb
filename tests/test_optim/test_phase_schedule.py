"""Schedules in phases: rates against torch's schedulers, what opens and closes, lengths, and every mistake."""

import json
import math

import pytest
import yaml
from helpers.schedule_places import VIT, open_layers, torch_rates
from torch.optim import lr_scheduler

from ftsgd_plugin.optim.schedule_document import read_document
from ftsgd_plugin.optim.schedules import make_schedule
from ftsgd_plugin.utils.errors import UserError

TOTAL = 12


def phases(*rows, total=TOTAL, lr=None, **options):
    document = read_document({'phases': [*rows], **({} if lr is None else {'lr': lr})}, 'S: schedule')
    return make_schedule('S', VIT, total, {'schedule': document}, **options)


@pytest.mark.parametrize('curve, make', [
    ('linear', lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 5)),
    ('cosine', lambda o: lr_scheduler.CosineAnnealingLR(o, 5, eta_min=0.1)),
    ('exponential', lambda o: lr_scheduler.ExponentialLR(o, 0.1 ** (1 / 5))),
])  # fmt: skip
def test_the_rate_within_a_phase_is_that_of_torchs_scheduler(curve, make):
    found = phases(dict(layers='head', length='5 steps', lr=[8, 0.8], curve=curve), dict(layers='rest'))
    expected = [8 * rate for rate in torch_rates(make, 5)]
    assert [found.factors(step)[0] for step in range(5)] == pytest.approx(expected, rel=1e-9)
    assert found.factors(5) == [1.0] * 7  # constant is the run's own


def test_warm_up_is_torchs_linear_warm_up_and_multipliers_are_per_block():
    found = phases(
        dict(layers=['head', 'blocks.3'], length='6 steps', lr=4, lr_warmup='3 steps', lr_mult={'blocks.3': 0.5}),
        dict(layers='rest', lr_warmup='50%', lr_mult={'head': 2.0, 'blocks.[01]': 0.25}),
    )
    ramp = torch_rates(lambda o: lr_scheduler.LinearLR(o, 1 / 4, 1.0, 3), 6)
    assert [found.factors(step)[6] for step in range(6)] == pytest.approx([4 * rate for rate in ramp], rel=1e-12)
    assert [found.factors(step)[4] for step in range(6)] == pytest.approx([2 * rate for rate in ramp], rel=1e-12)
    assert found.factors(6) == pytest.approx([x / 7 for x in (1, 0.25, 0.25, 1, 1, 1, 2)])
    assert found.factors(-1) == pytest.approx(found.factors(0)) and found.factors(99)[0] == pytest.approx(1.0)


@pytest.mark.parametrize('curve', ['linear', 'cosine', 'exponential'])
def test_after_the_end_of_the_run_the_rate_is_the_last_one(curve):
    found = phases(dict(layers='rest', lr=[10, 1], curve=curve))
    assert [found.factors(TOTAL + later)[0] for later in (0, 1, 5, 100)] == pytest.approx([1.0] * 4)


def test_a_decay_that_phases_would_not_follow_is_refused():
    for lr, decay in (('paper', 2.0), ({'curve': 'paper', 'decay': 3.0}, 2.0), (None, 2.0)):
        with pytest.raises(UserError, match='decay belongs to the named schedules'):
            phases(dict(layers='rest'), lr=lr, decay=decay)
    written = phases(dict(layers='rest'), lr={'curve': 'paper', 'decay': 2.0}, decay=2.0)
    assert written.factors(0)[0] == pytest.approx(math.exp(2))


def test_the_runs_curve_holds_where_a_phase_has_none_of_its_own():
    run = make_schedule('S', VIT, TOTAL, {}, decay=2.0, warmup=1, cooldown=2)
    lr = dict(curve='paper', decay=2.0, warmup='1 step', cooldown='2 steps')
    found = phases(dict(layers='head', length='25%'), dict(layers='rest', length='25%', lr=7), dict(), lr=lr)
    for step in range(TOTAL):
        assert found.factors(step)[0] == (7 if 3 <= step < 6 else run.factors(step)[0])


def test_layers_open_stay_open_close_and_open_again():
    found = phases(
        dict(layers=['head', 'blocks.3.attn'], length='3 steps'),
        dict(layers=['blocks.2', 'blocks.3.mlp'], close='head', length='3 steps'),
        dict(only=['head', 'blocks.2'], close=['blocks.3'], length='3 steps'),
        dict(layers='rest', close=['head']),
    )
    blocks = {f'blocks.{i}.{part}' for i in (2, 3) for part in ('attn', 'mlp')}
    assert open_layers(found, 0) == open_layers(found, -3) == {'head', 'blocks.3.attn'}
    assert open_layers(found, 3) == blocks
    assert open_layers(found, 6) == {'head', 'blocks.2.attn', 'blocks.2.mlp'}
    assert open_layers(found, 9) == open_layers(found, 99) == {p.layer for g in VIT for p in g} - {'head'}
    assert [found.open_blocks(step) for step in (0, 3, 6, 9)] == [1, 2, 1, 4]
    assert found.stretches() == [(0, 3), (3, 3), (6, 3), (9, 3)]


@pytest.mark.parametrize('lengths, options, expected', [
    (['5 steps', '25%', None], {}, [5, 3, 4]),
    (['2 epochs', '1 epoch', None], dict(epoch_length=3), [6, 3, 3]),
    (['0.5 epochs', 0.25, None], dict(epoch_length=4), [2, 3, 7]),
    (['2 epochs', '50%', None], dict(by_epoch=True), [2, 6, 4]),
    ([1 / 3, '33.4 %', None], dict(total=10), [3, 4, 3]),
    (['30%', '30%', '40%'], dict(total=7), [2, 2, 3]),
])  # fmt: skip
def test_lengths_in_steps_epochs_and_fractions_fill_the_run(lengths, options, expected):
    rows = [dict(length=length) if length else {} for length in lengths]
    rows[0]['layers'] = 'head'
    assert [steps for _, steps in phases(*rows, **options).stretches()] == expected


HEAD, REST = dict(layers='head', length='2 steps'), dict(layers='rest')
MISTAKES = {
    'unknown layer': (
        [dict(HEAD, layers=['haed']), REST],
        r"phase 1: layers: 'haed' matches no layer .* did you mean 'head'\?",
    ),
    'frozen layer': (
        [HEAD, dict(layers=['patch_embed'])],
        r"'patch_embed' matches no layer of the optimizer \(what freeze",
    ),
    'open twice': (
        [HEAD, dict(layers=['blocks.3', 'head'])],
        r"phase 2: opens 'head', which phase 1 has opened; remove it",
    ),
    'open twice by a glob': (
        [dict(HEAD, layers='blocks.3.*'), dict(layers='blocks.*')],
        r"opens 'blocks.3', which phase 1",
    ),
    'closed silently': (
        [HEAD, dict(only='blocks.3')],
        r"phase 2: closes 'head' again without saying so; add it to only",
    ),
    'closed before': ([HEAD, dict(layers='blocks.3', close='blocks.0')], r"closes 'blocks.0', which is not open"),
    'opened and closed': (
        [HEAD, dict(only=['head', 'blocks.3'], close='head')],
        r"only and close both name 'head'; remove",
    ),
    'nothing trains': ([dict(length='2 steps'), REST], 'phase 1: nothing trains; name its layers'),
    'all closed': ([HEAD, dict(close='rest')], 'phase 2: nothing trains'),
    'too long': ([dict(HEAD, length='13 steps'), REST], 'phase 1 ends after 13 steps, and the run has 12; shorten'),
    'no room for the last': (
        [dict(HEAD, length='12 steps'), REST],
        'phase 2 starts after 12 steps, and the run has 12',
    ),
    'too short': (
        [HEAD, dict(REST, length='3 steps')],
        'the phases end after 5 of 12 steps; leave out the length of the',
    ),
    'shorter than a step': (
        [dict(HEAD, length='1%'), REST],
        'phase 1 is shorter than one of the 12 steps; lengthen it',
    ),
    'no length': ([dict(layers='head'), REST], 'phase 1 has no length; only the last phase lasts to the end'),
    'epochs without their length': ([dict(HEAD, length='1 epoch'), REST], "phase 1: length='1 epoch' is in epochs and"),
    'no number': ([dict(HEAD, length='two steps'), REST], "length='two steps' is not a length; write '2 epochs'"),
    'whole steps': ([dict(HEAD, length='1.5 steps'), REST], 'is not a whole number of steps'),
    'infinite rate': ([dict(HEAD, lr=float('inf')), REST], 'phase 1: lr=inf is not a finite number above 0'),
    'nan': ([dict(HEAD, lr=[1.0, float('nan')]), REST], 'phase 1: lr=nan is not a finite number above 0'),
    'rate of zero': (
        [dict(HEAD, lr=0), REST],
        'lr=0 is not a finite number above 0.* to stop layers name them in close',
    ),
    'three rates': ([dict(HEAD, lr=[1, 2, 3]), REST], r'lr=\[1, 2, 3\] is not a pair'),
    'unknown curve': ([dict(HEAD, lr=[1, 2], curve='cos'), REST], "curve='cos' is none of 'linear', 'cosine', 'expon"),
    'curve without rates': ([dict(HEAD, lr=1, curve='cosine'), REST], "curve='cosine' needs two rates"),
    'multiplier': ([dict(HEAD, lr_mult=dict(head=-1)), REST], r"lr_mult\['head'\]=-1 is not a finite number above 0"),
    'multiplier of a closed layer': ([dict(HEAD, lr_mult={'blocks.0': 2}), REST], 'names no layer that trains in this'),
    'multiplied twice': ([HEAD, dict(REST, lr_mult={'blocks.0': 2, 'blocks.*': 3})], "both name 'blocks.0.attn'; make"),
    'part of a group': ([HEAD, dict(REST, lr_mult={'*.attn': 2})], r"'\*\.attn'\] is for a part of 'blocks.0'"),
    'warm-up too long': (
        [dict(HEAD, lr_warmup='3 steps'), REST],
        'lr_warmup of 3 steps is longer than the phase of 2;',
    ),
    'warm-up of no step': (
        [dict(HEAD, lr_warmup='3%'), REST],
        "phase 1: lr_warmup='3%' is shorter than half a step of the schedule",
    ),
    'unknown key': ([dict(HEAD, layer='head'), REST], "phase 1: does not know 'layer'; did you mean 'layers'"),
    'both': ([dict(HEAD, only='head'), REST], 'has layers .* and only .*; keep one'),
    'names': ([dict(HEAD, layers=[3]), REST], r'layers=\[3\] is not a list of layer names'),
    'no dict': (['head', REST], "phase 1='head' is not a dict"),
}


@pytest.mark.parametrize('case', MISTAKES)
def test_a_mistake_is_one_line_that_names_the_phase(case):
    rows, message = MISTAKES[case]
    with pytest.raises(UserError, match=message) as error:
        phases(*rows)
    assert '\n' not in str(error.value) and str(error.value).startswith('S: schedule')


@pytest.mark.parametrize('value, message', [
    ('papr', "schedule='papr' is none of 'paper', 'linear', 'cosine', a file"),
    (3, '3 is neither a name, a file nor a list of phases'),
    ([], r'phases=\[\] is not a list of phases; write at least one'),
    ({'phases': [REST], 'rate': 3}, "does not know 'rate'"),
    ({'phases': [REST], 'lr': 'expo'}, "lr='expo' is none of 'constant', 'paper'"),
    ({'phases': [REST], 'lr': {'curve': 'paper', 'decay': float('nan')}}, 'lr.decay=nan is not a finite number'),
    ({'phases': [REST], 'lr': {'curve': 'paper', 'warmup': 2}}, "lr.warmup=2 is not a length"),
])  # fmt: skip
def test_what_is_no_schedule_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        read_document(value, 'S: schedule')


def test_a_schedule_by_epochs_has_no_steps():
    with pytest.raises(UserError, match='is in steps and the schedule counts epochs; set convert_to_iter_based=True'):
        phases(HEAD, REST, by_epoch=True)


def test_a_file_is_read_as_it_is_written_in_a_config(tmp_path):
    rows = [dict(HEAD, lr=[2, 1.5], lr_mult={'head': 2}), REST]
    for name, dump in (('a.yaml', yaml.safe_dump), ('b.json', json.dumps)):
        (tmp_path / name).write_text(dump(rows))
        assert read_document(str(tmp_path / name), 'S') == {'phases': rows}
    (tmp_path / 'bad.yml').write_text('phases: [')
    (tmp_path / 'typo.yaml').write_text('- {layers: head, lngth: 3 steps}')
    for name, message in {
        'bad.yml': r'bad.yml: is not YAML',
        'typo.yaml': r"typo.yaml: phase 1: does not know 'lngth'; did you mean 'length",
        'none.yaml': r'none.yaml: no such schedule; tools/print_layers.py',
    }.items():
        with pytest.raises(UserError, match=message) as error:
            read_document(str(tmp_path / name), 'S')
        assert '\n' not in str(error.value)
