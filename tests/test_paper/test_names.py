"""One table of names and one of learning rates; what repeats them for its readers agrees."""

import pytest
from helpers import ROOT

from ftsgd_plugin.methods import METHOD_GRIDS, OTHER_METHODS
from ftsgd_plugin.paper.grids import GRIDS, format_rate
from ftsgd_plugin.paper.names import (
    CONFIG_METHODS,
    DATASETS,
    METHODS,
    MODELS,
    dataset_label,
    method_label,
    model_label,
    sort_names,
)
from ftsgd_plugin.paper.names import (
    OTHER_METHODS as OTHERS,
)
from ftsgd_plugin.paper.published import paper_gradients, paper_results
from ftsgd_plugin.sweep.plan import read_plan
from ftsgd_plugin.utils.plotting import COLOURS, MODEL_MARKS


def test_an_unknown_name_is_its_own_label():
    assert [model_label('vit-b16'), dataset_label('fmow'), method_label('sgd')] == ['Sup. ViT-B/16', 'FMoW', 'SGD']
    assert {label('mine') for label in (model_label, dataset_label, method_label)} == {'mine'}


def test_names_are_sorted_as_in_the_table_and_others_last():
    assert sort_names(['b', 'lars', 'a', 'sgd', 'adamw', 'sgd'], METHODS) == ['sgd', 'adamw', 'lars', 'a', 'b']


def test_every_published_name_has_a_label():
    for cell in paper_results():
        assert cell.model in MODELS and cell.method in METHODS and cell.dataset in DATASETS
    assert MODEL_MARKS.keys() == MODELS.keys() == {norms.model for norms in paper_gradients()}
    assert COLOURS.keys() <= METHODS.keys()
    assert len(set(MODEL_MARKS.values())) == len(MODELS) and len(set(COLOURS.values())) == len(COLOURS)


def test_method_parts_have_a_label_and_name_their_grid():
    parts = sorted((ROOT / 'configs/_base_/methods').glob('*.py'))
    assert GRIDS.keys() <= METHODS.keys() and OTHERS.keys() == OTHER_METHODS.keys()
    assert {part.stem for part in parts} == METHOD_GRIDS.keys() == GRIDS.keys() | OTHERS.keys()
    for part in parts:
        text = ' '.join(part.read_text('utf-8').split())
        assert ', '.join(map(format_rate, METHOD_GRIDS[part.stem])) in text, part
        assert method_label(part.stem) != part.stem
        if part.stem in OTHER_METHODS:
            sources = OTHER_METHODS[part.stem].source.removeprefix('arXiv ').split(', ')
            assert all(source in text for source in sources), part


@pytest.mark.parametrize('name', ['paper', 'clip'])
def test_plans_of_the_paper_have_its_names_and_grids(name):
    plan = read_plan(str(ROOT / f'configs/sweeps/{name}.py'))
    assert {method: tuple(rates) for method, rates in plan.lrs.items()} == {m: GRIDS[m] for m in plan.lrs}
    assert plan.datasets == list(DATASETS) and set(plan.models) <= MODELS.keys()
    assert set(plan.lrs) <= set(CONFIG_METHODS)
    if name == 'paper':
        assert plan.models == list(MODELS)


def test_rates_are_written_with_one_digit():
    assert [format_rate(rate) for rate in (0.00003, 3e-7, 1e-2)] == ['3e-5', '3e-7', '1e-2']
