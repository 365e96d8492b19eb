"""The division of the time: by its documented rule, never over the limit, and the same for the same measurements."""

import random

import pytest

from ftsgd_plugin.finetune.time_plan import (
    Costs,
    epochs_that_fit,
    image_costs,
    plan_time,
    rates_to_try,
    search_may_go_on,
)
from ftsgd_plugin.paper.grids import GRIDS
from ftsgd_plugin.utils.errors import UserError

COSTS = Costs(
    train_image=0.01, eval_image=0.003, train_images=1000, id_images=200, held_out_images=500
)  # 12.1 s an epoch
RATES = rates_to_try('freeze-embed')


def test_without_a_limit_the_search_costs_about_as_much_as_the_training():
    plan = plan_time(COSTS, RATES, 20)
    assert (len(plan.rates), plan.search_epochs, plan.epochs, plan.note) == (6, 3, 20, '')
    assert plan.search_seconds == pytest.approx(6 * 3 * (1000 * 0.01 + 200 * 0.003))
    assert plan.training_seconds == pytest.approx(20 * (1000 * 0.01 + 700 * 0.003))


@pytest.mark.parametrize(
    'seconds, rates, search_epochs, epochs, said',
    [
        (3600, 6, 3, 20, ''),
        (300, 6, 2, 11, 'the time is enough for 11 of 20 epochs'),
        (60, 3, 1, 2, '2 of 20 epochs and 3 of 6 rates (1e-4, 3e-4, 1e-3)'),
        (30, 0, 0, 2, 'too short to search for a learning rate; the default of the method is taken'),
    ],
)
def test_less_time_shortens_training_and_search(seconds, rates, search_epochs, epochs, said):
    plan = plan_time(COSTS, RATES, 20, seconds)
    assert (len(plan.rates), plan.search_epochs, plan.epochs) == (rates, search_epochs, epochs)
    assert said in plan.note and bool(said) == bool(plan.note)


def test_a_plan_fits_its_time_and_gives_the_training_half_of_it():
    numbers = random.Random(0)
    for _ in range(500):
        images = [numbers.randint(1, 5000) for _ in range(3)]
        costs = Costs(numbers.uniform(1e-4, 0.1), numbers.uniform(1e-4, 0.1), *images)
        epochs, seconds = numbers.randint(1, 60), numbers.uniform(1, 5000)
        try:
            plan = plan_time(costs, RATES, epochs, seconds)
        except UserError:
            assert costs.epoch > 0.95 * seconds
            continue
        assert plan.search_seconds + plan.training_seconds <= seconds
        assert 1 <= plan.epochs <= epochs and len(plan.rates) in (0, 3, 4, 5, 6)
        if plan.rates and plan.epochs < epochs:
            assert plan.training_seconds + costs.epoch > 0.95 * seconds / 2
        assert plan == plan_time(costs, RATES, epochs, seconds)


def test_no_time_for_an_epoch_is_one_line():
    with pytest.raises(
        UserError, match=r'^--time: one epoch of training takes about 12 s and 9.5 s are left; give more'
    ):
        plan_time(COSTS, RATES, 20, 10)


def test_a_given_rate_needs_no_search():
    plan = plan_time(COSTS, [], 20, 120)
    assert (plan.rates, plan.epochs, plan.note) == ((), 9, 'the time is enough for 9 of 20 epochs')


@pytest.mark.parametrize('method', GRIDS)
def test_rates_are_tried_from_the_middle_of_the_grid_outwards(method):
    rates, grid = rates_to_try(method), sorted(GRIDS[method])
    assert sorted(rates) == grid and rates[:2] == grid[2:4]
    for count in range(1, 7):  # what has been tried has no gaps
        places = sorted(grid.index(rate) for rate in rates[:count])
        assert places == list(range(places[0], places[0] + count))


def test_epochs_are_counted_again_from_the_measured_time():
    assert epochs_that_fit(10.0, 20, 105.0) == 9  # 5 % to spare
    assert epochs_that_fit(10.0, 20, 1e6) == 20 and epochs_that_fit(10.0, 20, None) == 20
    assert epochs_that_fit(10.0, 20, 1.0) == 1 and epochs_that_fit(10.0, 20, -5.0) == 1


def test_the_search_stops_at_half_of_the_time():
    assert search_may_go_on(0.0, 0, 1.0)  # the first rate is always tried
    assert search_may_go_on(30.0, 3, 80.0) and not search_may_go_on(30.1, 3, 80.0)
    assert search_may_go_on(1e9, 3, None)


def test_loading_images_counts():
    assert image_costs(0.03, 0.06, 0.01, workers=0) == pytest.approx((0.04, 0.03))
    assert image_costs(0.03, 0.06, 0.2, workers=4) == pytest.approx((0.05, 0.05))
