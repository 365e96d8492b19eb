"""Drawn splits: a pure function of the data and the seed, with the properties of scikit-learn's splitters."""

import json
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold, StratifiedShuffleSplit

from ftsgd_plugin.datasets.splits import DRAWN, Draw, draw_splits, is_split, parse_draw, split_name
from ftsgd_plugin.utils.errors import UserError

RNG = np.random.RandomState(0)
N = 3000
PATHS = [f'images/{i:05d}.png' for i in range(N)]
LABELS = RNG.choice(6, N, p=[0.5, 0.2, 0.15, 0.1, 0.04, 0.01]).astype(np.int32)
GROUPS = RNG.randint(0, 5, N).astype(np.int32)
PATIENTS = np.sort(RNG.randint(0, 200, N)).astype(np.int32)
DRAW = Draw(val=0.1, test=0.2, seed=3)


def shares(values: np.ndarray, splits: np.ndarray, split: int) -> np.ndarray:
    """Fraction of every value that is in a split."""
    return np.bincount(values[splits == split], minlength=values.max() + 1) / np.bincount(values)


@pytest.mark.parametrize('whole', [None, PATIENTS], ids=['images', 'patients'])
def test_order_of_the_files_does_not_matter(whole):
    splits = draw_splits(PATHS, LABELS, GROUPS, DRAW, whole)
    order = list(range(N))
    random.Random(1).shuffle(order)
    shuffled = draw_splits(
        [PATHS[i] for i in order], LABELS[order], GROUPS[order], DRAW, None if whole is None else whole[order]
    )
    assert (shuffled == splits[order]).all()
    other = draw_splits(PATHS, LABELS, GROUPS, Draw(0.1, 0.2, seed=4), whole)
    assert (other != splits).mean() > 0.2


def test_another_process_draws_the_same():
    """Python's own hash of a text differs between processes; a golden value stays on another version or machine."""
    code = (
        'import json, sys, types, ftsgd_plugin;'
        'package = sys.modules["ftsgd_plugin.datasets"] = types.ModuleType("ftsgd_plugin.datasets");'
        'package.__path__ = [ftsgd_plugin.__path__[0] + "/datasets"];'  # the package itself would import torch
        'import numpy as np; from ftsgd_plugin.datasets.splits import Draw, draw_splits;'
        'labels = np.arange(60) % 3; paths = [f"é{i}.png" for i in range(60)];'
        'print(json.dumps(np.flatnonzero(draw_splits(paths, labels, labels, Draw(0.2, 0.1, 5)) == 2).tolist()))'
    )
    found = subprocess.check_output([sys.executable, '-c', code], env=os.environ | {'PYTHONHASHSEED': '1'})
    assert json.loads(found) == [7, 18, 22, 39, 44, 56]


def test_stratified_by_class_and_group():
    """Every class has its share within one image, as with StratifiedShuffleSplit; so have the groups, nearly."""
    splits = draw_splits(PATHS, LABELS, GROUPS, DRAW)
    theirs = next(StratifiedShuffleSplit(1, test_size=0.2, random_state=0).split(PATHS, LABELS))[1]
    assert abs((splits == 2).sum() - len(theirs)) <= 1 and abs((splits == 1).sum() - 300) <= 1
    counts = np.bincount(LABELS)
    expected = np.bincount(LABELS[theirs], minlength=6)
    assert np.abs(np.bincount(LABELS[splits == 2], minlength=6) - expected).max() <= 1
    for split, fraction in ((1, 0.1), (2, 0.2)):
        assert np.abs(shares(LABELS, splits, split) * counts - fraction * counts).max() <= 1
        cells = Counter(zip(LABELS.tolist(), GROUPS.tolist()))
        drawn = Counter(zip(LABELS[splits == split].tolist(), GROUPS[splits == split].tolist()))
        assert all(abs(drawn[cell] - fraction * count) < 2.5 for cell, count in cells.items())


def test_whole_groups_never_leak():
    splits = draw_splits(PATHS, LABELS, GROUPS, Draw(0.1, 0.2, 3, 'patient'), PATIENTS)
    assert all(len(set(splits[patient == PATIENTS])) == 1 for patient in range(200))
    assert abs((splits == 1).mean() - 0.1) < 0.01 and abs((splits == 2).mean() - 0.2) < 0.01
    # As balanced as StratifiedGroupKFold's fold of a fifth, and better than a blind draw of groups.
    fold = next(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(PATHS, LABELS, PATIENTS))[1]
    blind = next(GroupShuffleSplit(1, test_size=0.2, random_state=0).split(PATHS, LABELS, PATIENTS))[1]

    def imbalance(rows) -> float:
        return np.abs(np.bincount(LABELS[rows], minlength=6) / np.bincount(LABELS) - 0.2).max()

    ours = imbalance(np.flatnonzero(splits == 2))
    assert ours < imbalance(blind) and ours < imbalance(fold) + 0.02


@pytest.mark.parametrize('seed', range(4))
def test_small_classes_and_few_groups(seed):
    """One image at least trains; a split is empty only if there is nothing to draw."""
    labels = np.repeat(np.arange(10), 2)
    splits = draw_splits(PATHS[:20], labels, labels, Draw(0.3, 0.3, seed))
    assert set(labels[splits == 0]) == set(range(10)) and {1, 2} <= set(splits)
    labels = np.arange(30) % 2
    splits = draw_splits(PATHS[:30], labels, labels, Draw(0.1, 0.1, seed, 'group'), np.arange(30) // 10)
    assert sorted(Counter(splits.tolist()).values()) == [10, 10, 10]
    labels = np.arange(30) // 10  # a class per group: those that train are what is left
    splits = draw_splits(PATHS[:30], labels, labels, Draw(0.4, 0.0, seed, 'group'), np.arange(30) // 10)
    assert {0, 1} == set(splits)
    with pytest.raises(UserError, match=r'2 values of draw\.whole='):
        draw_splits(PATHS[:20], np.zeros(20, int), np.zeros(20, int), DRAW, np.arange(20) // 10)


def test_names_of_splits():
    assert [split_name(name) for name in ('Train', 'valid', 'DEV', 'test ', 'ood', 'fold3')] == [
        *('train', 'val', 'val', 'test', 'ood', 'fold3')
    ]
    assert is_split('Validation') and is_split('id_test') and not is_split('training dogs')
    assert Draw(0.2, 0.0).names == DRAWN[:2]


@pytest.mark.parametrize(
    'draw, message',
    [
        ('0.1', 'is not a dict'),
        (dict(vla=0.1), "has no 'vla'; did you mean 'val'"),
        (dict(val=1.0), 'draw.val=1.0 is not a fraction'),
        (dict(val=True), 'draw.val=True is not a fraction'),
        (dict(val=0.6, test=0.5), 'must add up to'),
        (dict(), 'must add up to'),
        (dict(val=0.1, seed=-1), 'draw.seed=-1 is not a whole number'),
        (dict(val=0.1, whole=3), 'draw.whole=3 is not the name'),
    ],
)
def test_malformed_draw(draw, message):
    with pytest.raises(UserError, match=message):
        parse_draw(draw)
