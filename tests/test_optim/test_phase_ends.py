"""Phases that end by an evaluation: the decision against torch's plateau scheduler, states, mistakes."""

import math
import random

import pytest
import torch
from helpers.chain import Chain, batch
from helpers.gradual import BASE
from helpers.schedule_places import VIT, open_layers
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ftsgd_plugin import GradualUnfreezing, param_groups
from ftsgd_plugin.optim.phase_ends import Ending, PhaseEnds
from ftsgd_plugin.optim.schedule_document import read_document
from ftsgd_plugin.optim.schedules import make_schedule
from ftsgd_plugin.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings('ignore:the frozen embedding', 'ignore:Detected call of')
KEY = 'id/accuracy'
PHASES = [
    dict(layers='head', length='6 steps', patience=2, lr=[2, 1]),
    dict(layers='blocks.1', length='4 steps', patience=1, close='head'),
    dict(layers='rest'),
]


@pytest.mark.parametrize('rule, delta, patience', [('greater', 0.0, 2), ('greater', 0.05, 1), ('less', 0.02, 3)])
def test_a_phase_ends_where_torchs_plateau_scheduler_would_act(rule, delta, patience):
    """Equal values do not improve; NaN, on which torch's acts too, is none either."""
    for seed in range(40):
        values = [random.Random(seed * 100 + i).choice([0.1, 0.15, 0.2, 0.2, 0.3, math.nan]) for i in range(30)]
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        mode = {'greater': 'max', 'less': 'min'}[rule]
        plateau = ReduceLROnPlateau(optimizer, mode, 0.5, patience - 1, threshold=delta, threshold_mode='abs')
        ending, ends = Ending(patience, KEY, rule, delta), PhaseEnds()
        for step, value in enumerate(values, start=1):
            optimizer.step()
            plateau.step(value)
            seen = ends.observe({KEY: value}, step, 0, [ending, Ending()], 31)
            assert seen.ended == (optimizer.param_groups[0]['lr'] < 1)
            if seen.ended:
                assert ends.steps == {0: step} and seen.evaluations == step
                break


def test_the_next_phases_move_up_and_the_last_lasts_to_the_end():
    plan = make_schedule(
        'S',
        VIT,
        20,
        {
            'schedule': read_document(
                [
                    dict(layers='head', length='6 steps', patience=2),
                    dict(layers='blocks.3', length='25%', patience=1),
                    {},
                ],
                'S',
            )
        },
    )
    assert plan.starts == (0, 6, 11)
    earlier = plan.ending({0: 4})
    assert earlier.starts == (0, 4, 9) and plan.starts == (0, 6, 11)
    assert plan.ending({0: 4, 1: 5}).starts == (0, 4, 5)
    assert plan.ending({0: 9}).starts == plan.starts  # the length is the most
    assert earlier.stretches() == [(0, 4), (4, 5), (9, 11)] and earlier.end_of(1) == 9
    assert open_layers(earlier, 4) == open_layers(plan, 6)


def plain(seed: int = 0, **options):
    model = Chain().train()
    optimizer = torch.optim.SGD(param_groups(model, lr=BASE), momentum=0.9)
    return model, optimizer, GradualUnfreezing(optimizer, model, 14, **{'schedule': PHASES, **options})


SCORES = [0.3, 0.5, 0.4, 0.5, 0.9, 0.9, 0.8]  # phase 1 ends after step 4, phase 2 after step 6


@pytest.mark.parametrize('resume_at', [None, *range(1, 8)])
def test_a_resumed_loop_repeats_every_decision(resume_at):
    parts, opened = plain(), []
    for step in range(10):
        model, optimizer, scheduler = parts
        opened.append(scheduler.plan.phase_at(scheduler.position))
        inputs, labels = batch(step)
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        if step < len(SCORES):
            seen = scheduler.observe({KEY: SCORES[step]})
            assert scheduler.observe({KEY: 0.0}) is None  # of the same step, as after a resume
            assert (seen is not None and seen.ended) == (step in (3, 5))
        if step + 1 == resume_at:
            states = [part.state_dict() for part in parts]
            parts = plain()
            for part, state in zip(parts, states):
                part.load_state_dict(state)
    assert opened == [0] * 4 + [1] * 2 + [2] * 4
    assert [(row['phase'], row['step'], row['best'], row['best_step']) for row in scheduler.ended] == [
        (0, 4, 0.5, 2), (1, 6, 0.9, 5)]  # fmt: skip
    assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([BASE] * 3)
    assert all(param.requires_grad for name, param in model.named_parameters() if not name.startswith('stem'))
    total = torch.cat([param.detach().flatten() for param in model.parameters()]).double().sum().item()
    assert total == EXPECTED.setdefault('total', total)  # the same weights, resumed or not


EXPECTED: dict[str, float] = {}


def test_rates_of_a_phase_that_starts_earlier_are_those_of_its_own_steps():
    _, optimizer, scheduler = plain()
    for score in SCORES[:4]:
        optimizer.step()
        scheduler.step()
        scheduler.observe({KEY: score})
    head = next(group for group in optimizer.param_groups if group['role'] == 'head')
    assert head['lr'] == scheduler.get_last_lr()[-1] == pytest.approx(BASE)  # not the rate of step 4 of the first
    assert not head['params'][0].requires_grad and scheduler.open_blocks == 1
    assert head['params'][0] not in optimizer.state


def test_keys_without_a_value_are_those_that_are_left_out():
    rows = [dict(layers='head', length='1 step', patience=2, rule=None), REST]
    ending = Ending.of(read_document(rows, 'S')['phases'][0])
    assert ending == Ending(patience=2) and ending.improves(0.6, 0.5)


REST = dict(layers='rest')
MISTAKES = {
    'in the last phase': (
        [dict(layers='head', length='1 step'), dict(REST, patience=2)],
        r'phase 2: patience ends a phase .*EarlyStoppingHook',
    ),
    'no number': (
        [dict(layers='head', length='1 step', patience=0.5), REST],
        'patience=0.5 is not a whole number of evalu',
    ),
    'delta': (
        [dict(layers='head', length='1 step', patience=2, min_delta=-1), REST],
        'min_delta=-1 is not a finite number',
    ),
    'nan': (
        [dict(layers='head', length='1 step', patience=2, min_delta=math.nan), REST],
        'min_delta=nan is not a finite',
    ),
    'OOD': (
        [dict(layers='head', length='1 step', patience=2, metric='ood/accuracy'), REST],
        'is of the OOD data, which must not',
    ),
    'a group': ([dict(layers='head', length='1 step', patience=2, metric='group/cat'), REST], 'is of the OOD data'),
    'rule': (
        [dict(layers='head', length='1 step', patience=2, rule='less'), REST],
        "rule='less' is not that of 'id/accuracy'",
    ),
    'nothing': (
        [dict(layers='head', length='1 step', metric=KEY), REST],
        'metric without patience or restore_best does',
    ),
    'restore': (
        [dict(layers='head', length='1 step', restore_best='yes'), REST],
        "restore_best='yes' is neither true nor",
    ),
}


@pytest.mark.parametrize('case', MISTAKES)
def test_a_mistake_is_one_line(case):
    rows, message = MISTAKES[case]
    with pytest.raises(UserError, match=message) as error:
        read_document(rows, 'S: schedule')
    assert '\n' not in str(error.value)


def test_a_metric_that_is_not_reported_and_a_copy_of_a_loop_of_ones_own_are_named():
    *_, scheduler = plain()
    scheduler.optimizer.step()
    scheduler.step()
    with pytest.raises(
        UserError, match="metric='id/accuracy': the evaluation reports no such metric; did you mean 'id/acu"
    ):
        scheduler.observe({'id/acuracy': 0.5})
    with pytest.raises(UserError, match='restore_best is for the Runner'):
        plain(schedule=[dict(layers='head', length='1 step', restore_best=True), REST])
