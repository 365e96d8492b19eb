"""Gradual unfreezing as pure functions of the step: the only copy of the formula.

Source: the code of the paper's authors (arXiv 2211.09359, ``layer-wise-tune``). A step is an epoch or an iteration. Of
``total`` steps the first ``warmup`` train the head only, at the first learning rate, and the last ``cooldown`` train
everything at the base learning rate. Between them blocks open from the top, one after another:

    T         = max(1, total - warmup - cooldown)
    eff       = max(0, step - warmup)
    open      = floor(blocks * eff / (T - 1))
    lr / base = exp(decay * (1 - eff / (T - 1)))

Everything trains at the base rate if ``step >= total - cooldown`` or ``T = 1``.

That is the curve ``'paper'``. Two more are this project's choice: with u = eff / (T - 1) and the same first rate, both
numbers follow u along ``'linear'``, and s = (1 - cos(pi u)) / 2, slow at both ends, along ``'cosine'``::

    linear:  open = floor(blocks * u)    lr / base = 1 + (exp(decay) - 1) * (1 - u)
    cosine:  open = floor(blocks * s)    lr / base = 1 + (exp(decay) - 1) * (1 - s)
"""

import math

CURVES = ('paper', 'linear', 'cosine')
_OPPOSITE = {'norm': 'position', 'position': 'norm', 'embed': 'norm'}  # what opens with the first and the last block


def _span(total: int, warmup: int, cooldown: int) -> int:
    return max(1, total - warmup - cooldown)


def open_blocks(step: int, blocks: int, total: int, warmup: int = 0, cooldown: int = 0, curve: str = 'paper') -> int:
    """Return how many blocks train, counted from the head.

    Args:
        step: Counted from 0. Before 0 no block is open, from ``total`` on all are.
        blocks: Number of blocks of the model.
        total: Number of steps of the schedule.
        warmup: Steps at the start with no block open. Defaults to 0.
        cooldown: Steps at the end with all blocks open. Defaults to 0.
        curve: One of :data:`CURVES`. Defaults to ``'paper'``.

    Examples:
        >>> [open_blocks(step, blocks=12, total=20) for step in range(20)]
        [0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12]
        >>> [open_blocks(step, blocks=12, total=8, warmup=1, cooldown=2) for step in range(8)]
        [0, 0, 3, 6, 9, 12, 12, 12]
        >>> [open_blocks(step, blocks=12, total=8, curve='cosine') for step in range(8)]
        [0, 0, 2, 4, 7, 9, 11, 12]
    """
    if step < 0:
        return 0
    span = _span(total, warmup, cooldown)
    if step >= total - cooldown or span == 1:
        return blocks
    done = max(0, step - warmup)
    if curve == 'cosine':
        return int(blocks * cosine(done / (span - 1)) + 1e-9)  # cos(pi / 2) is not zero in floating point
    return blocks * done // (span - 1)


def cosine(share: float) -> float:
    """Half a cosine from 0 to 1."""
    return (1 - math.cos(math.pi * share)) / 2


def lr_factor(
    step: int, total: int, warmup: int = 0, cooldown: int = 0, decay: float = 3.73, curve: str = 'paper'
) -> float:
    """Return the learning rate as a multiple of the base rate.

    Args:
        step: Counted from 0.
        total: Number of steps of the schedule.
        warmup: Steps at the start at the first rate. Defaults to 0.
        cooldown: Steps at the end at the base rate. Defaults to 0.
        decay: Exponent at the start. Defaults to 3.73, that is 41.68 times the base rate.
        curve: One of :data:`CURVES`. Defaults to ``'paper'``.

    Examples:
        >>> [round(lr_factor(step, total=5), 2) for step in range(5)]
        [41.68, 16.4, 6.46, 2.54, 1.0]
        >>> [round(lr_factor(step, total=8, warmup=1, cooldown=2), 2) for step in range(8)]
        [41.68, 41.68, 16.4, 6.46, 2.54, 1.0, 1.0, 1.0]
        >>> [round(lr_factor(step, total=5, curve='linear'), 2) for step in range(5)]
        [41.68, 31.51, 21.34, 11.17, 1.0]
    """
    span = _span(total, warmup, cooldown)
    if step >= total - cooldown or span == 1:
        return 1.0
    done = max(0, step - warmup) / (span - 1)
    if curve == 'paper':
        return math.exp(decay * (1 - done))
    return 1 + (math.exp(decay) - 1) * (1 - (cosine(done) if curve == 'cosine' else done))


def trains(role: str, block: int | None, opened: int, blocks: int, bottom_up: bool = False) -> bool:
    """Return whether a layer trains while the top ``opened`` of ``blocks`` blocks are open.

    With none open the head and CLIP's projection train; with some open the final norm too; with all open everything,
    the position embedding and class token included (and the embedding, unless the constructor froze it permanently).

    Args:
        role: The layer's role, one of :data:`ftsgd_plugin.layers.ROLES`.
        block: The layer's block, counted from the input; ``None`` outside blocks.
        opened: Number of open blocks, from :func:`open_blocks`.
        blocks: Number of blocks of the model.
        bottom_up: Count the open blocks from the input: the position embedding opens with the first of them, the final
            norm with the last. Defaults to False.

    Examples:
        >>> [trains('block', block, opened=1, blocks=3) for block in range(3)]
        [False, False, True]
        >>> [trains(role, None, opened=1, blocks=3) for role in ('embed', 'position', 'norm', 'head')]
        [False, False, True, True]
    """
    if role in ('head', 'projection'):
        return True
    if bottom_up:
        role, block = _OPPOSITE.get(role, role), block if block is None else blocks - 1 - block
    if role == 'norm':
        return opened > 0
    if role == 'block':
        return block >= blocks - opened
    return opened == blocks


def probe_steps(total: int, probe: float) -> int:
    """Return how many steps of a run train the head alone before everything trains.

    Args:
        total: Number of steps of the run.
        probe: Their share, above 0 and below 1. Both parts have at least one step, unless there is only one.

    Examples:
        >>> [probe_steps(total, probe=0.5) for total in (1, 2, 5, 20)]
        [0, 1, 2, 10]
    """
    return min(max(1, int(total * probe)), total - 1)


def probe_lr_factor(step: int, total: int, probe: float, probe_factor: float) -> float:
    """Return the learning rate of a probe followed by fine-tuning as a multiple of the base rate.

    Each part has its own cosine: from ``probe_factor`` to 0, then from 1 to 0.

    Args:
        step: Counted from 0; outside the run the rate is that of its first or last step.
        total: Number of steps of the run.
        probe: Share of the probe.
        probe_factor: Rate of the probe over that of fine-tuning.

    Examples:
        >>> [round(probe_lr_factor(step, total=6, probe=0.5, probe_factor=10), 2) for step in range(6)]
        [10.0, 7.5, 2.5, 1.0, 0.75, 0.25]
    """
    first, step = probe_steps(total, probe), min(max(0, step), total - 1)
    if step < first:
        return probe_factor * (1 + math.cos(math.pi * step / first)) / 2
    return (1 + math.cos(math.pi * (step - first) / (total - first))) / 2
