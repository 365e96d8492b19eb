"""Gradual unfreezing as functions of the step, against the formulas in exact arithmetic and the paper's table."""

import doctest
import math
from fractions import Fraction

import pytest

from ftsgd_plugin.optim import schedule
from ftsgd_plugin.optim.schedule import lr_factor, open_blocks, trains

# The authors' values for L = 12: total steps -> blocks at each.
PAPER = {
    20: [0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12],
    50: [0] * 5 + [n for n in range(1, 12) for _ in range(4)] + [12],
    5: [0, 3, 6, 9, 12],
    3: [0, 6, 12],
}


def test_the_values_in_the_docstrings_are_those_that_are_returned():
    result = doctest.testmod(schedule)
    assert result.attempted == 10 and result.failed == 0


@pytest.mark.parametrize('total', PAPER)
def test_blocks_equal_the_papers_table(total):
    assert [open_blocks(step, 12, total) for step in range(total)] == PAPER[total]


def test_blocks_of_vit_l_equal_the_papers_table():
    expected = [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18, 20, 21, 22, 24]
    assert [open_blocks(step, 24, 20) for step in range(20)] == expected


@pytest.mark.parametrize('total, multiples', [
    (20, [41.68, 34.25, 28.14, 23.13, 19.01, 15.62, 12.83, 10.55]),
    (50, [41.68, 38.62, 35.79]),
    (5, [41.68, 16.40, 6.46, 2.54, 1]),
    (3, [41.68, 6.46, 1]),
])  # fmt: skip
def test_learning_rates_equal_the_papers_table(total, multiples):
    found = [lr_factor(step, total) for step in range(len(multiples))]
    assert found == pytest.approx(multiples, abs=0.005)
    assert lr_factor(total - 1, total) == 1.0


@pytest.mark.parametrize('total', [1, 2, 3, 5, 20, 50])
@pytest.mark.parametrize('blocks', [6, 12, 13, 24, 30, 33])
def test_every_step_equals_the_formulas(total, blocks):
    """All warm-ups and cool-downs that fit, also those that leave nothing between (T = 1)."""
    for warmup in range(total + 1):
        for cooldown in range(total + 1 - warmup):
            span = max(1, total - warmup - cooldown)
            for step in range(total):
                eff = max(0, step - warmup)
                if step >= total - cooldown or span == 1:
                    expected, exponent = blocks, Fraction(0)
                else:
                    expected = math.floor(Fraction(blocks * eff, span - 1))
                    exponent = 1 - Fraction(eff, span - 1)
                assert open_blocks(step, blocks, total, warmup, cooldown) == expected
                factor = lr_factor(step, total, warmup, cooldown)
                assert math.isclose(factor, math.exp(3.73 * exponent), rel_tol=1e-14)
                assert 0 <= expected <= blocks and 1 <= factor <= math.exp(3.73)


@pytest.mark.parametrize('total', [7, 100, 28356])
def test_iterations_behave_like_many_epochs(total):
    opened = [open_blocks(step, 12, total, warmup=2, cooldown=3) for step in range(total)]
    assert opened[:3] == [0, 0, 0] and opened[-3:] == [12] * 3 and opened == sorted(opened)
    rates = [lr_factor(step, total, warmup=2, cooldown=3) for step in range(total)]
    assert rates == sorted(rates, reverse=True)
    span = total - 5
    assert rates[2 + span // 2] == pytest.approx(math.exp(3.73 * (1 - (span // 2) / (span - 1))), rel=1e-14)


def test_nothing_is_open_before_the_first_step_and_everything_after_the_last():
    assert open_blocks(-1, 12, 5) == 0 and open_blocks(-1, 12, 1) == 0
    assert open_blocks(5, 12, 5) == 12 and open_blocks(99, 12, 5, cooldown=0) == 12


@pytest.mark.parametrize('opened, expected', [
    (0, {'head', 'projection'}),
    (1, {'head', 'projection', 'norm', 'block 3'}),
    (3, {'head', 'projection', 'norm', 'block 3', 'block 2', 'block 1'}),
    (4, {'head', 'projection', 'norm', 'block 3', 'block 2', 'block 1', 'block 0', 'position', 'embed'}),
])  # fmt: skip
def test_what_trains_by_role(opened, expected):
    layers = [('embed', None), ('position', None), *(('block', i) for i in range(4))]
    layers += [('norm', None), ('projection', None), ('head', None)]
    names = {role if block is None else f'{role} {block}' for role, block in layers if trains(role, block, opened, 4)}
    assert names == expected
