"""How many runs a Ray cluster takes at a time: each is on one machine."""

import pytest

from ftsgd_plugin.sweep.ray_backend import _fit
from ftsgd_plugin.utils.errors import UserError


def cluster(*machines: tuple[int, int], dead: int = 0) -> list[dict]:
    """``ray.nodes()`` of machines with (GPUs, CPU cores)."""
    nodes = [
        {'Alive': True, 'Resources': {key: float(n) for key, n in (('GPU', gpus), ('CPU', cpus)) if n}}
        for gpus, cpus in machines
    ]
    return nodes + [{'Alive': False, 'Resources': {'GPU': 8.0, 'CPU': 96.0}}] * dead


@pytest.mark.parametrize(
    'machines, gpus, cpus, expected',
    [
        ([(0, 4)], None, None, (0, 1, 4)),
        ([(0, 4), (0, 3)], None, 2, (0, 2, 3)),  # not 7 // 2 by luck: 2 + 1
        ([(0, 3), (0, 3)], None, 2, (0, 2, 2)),  # the sum would say 3
        ([(4, 32)], None, None, (1, 5, 4)),
        ([(4, 8), (0, 64)], None, None, (1, 2, 4)),  # cores of a machine without a GPU do not help
        ([(2, 16), (2, 16)], 0.5, None, (0.5, 4, 8)),
        ([(2, 16)], 0.6, None, (0.6, 5, 2)),  # a fraction does not reach across two GPUs
        ([(1, 1)], None, None, (1, 1, 1)),
        ([(8, 4)], None, None, (1, 1, 4)),  # fewer cores than GPUs
    ],
)
def test_room(machines, gpus, cpus, expected):
    assert _fit(cluster(*machines, dead=1), gpus, cpus) == expected


@pytest.mark.parametrize(
    'machines, gpus, cpus, line',
    [
        ([(0, 2), (0, 2)], None, 4, '--cpus-per-run 4: no machine of Ray has more than 2 CPU cores; give less.'),
        ([(1, 4), (0, 64)], 1, 16, '--cpus-per-run 16: no machine of Ray with enough GPUs has more than 4 CPU cores'),
        ([(0, 4)], 1, None, '--gpus-per-run 1: no machine of Ray has more than 0; give less, or 0.'),
        ([(0.5, 4), (0.5, 4)], 1, None, '--gpus-per-run 1: no machine of Ray has more than 0.5; give'),
    ],
)
def test_a_run_that_fits_on_no_machine_is_refused(machines, gpus, cpus, line):
    with pytest.raises(UserError) as refused:
        _fit(cluster(*machines), gpus, cpus)
    assert str(refused.value).startswith(line)
