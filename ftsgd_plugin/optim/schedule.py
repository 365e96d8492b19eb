"""Gradual unfreezing as pure functions of the step: the only copy of the formula.

Source: the code of the paper's authors (arXiv 2211.09359, ``layer-wise-tune``). A step is an epoch or an iteration. Of
``total`` steps the first ``warmup`` train the head only, at the first learning rate, and the last ``cooldown`` train
everything at the base learning rate. Between them blocks open from the top, one after another:

    T         = max(1, total - warmup - cooldown)
    eff       = max(0, step - warmup)
    open      = floor(blocks * eff / (T - 1))
    lr / base = exp(decay * (1 - eff / (T - 1)))

Everything trains at the base rate if ``step >= total - cooldown`` or ``T = 1``.
"""

import math


def _span(total: int, warmup: int, cooldown: int) -> int:
    return max(1, total - warmup - cooldown)


def open_blocks(step: int, blocks: int, total: int, warmup: int = 0, cooldown: int = 0) -> int:
    """Return how many blocks train, counted from the head.

    Args:
        step: Counted from 0. Before 0 no block is open, from ``total`` on all are.
        blocks: Number of blocks of the model.
        total: Number of steps of the schedule.
        warmup: Steps at the start with no block open. Defaults to 0.
        cooldown: Steps at the end with all blocks open. Defaults to 0.

    Examples:
        >>> [open_blocks(step, blocks=12, total=20) for step in range(20)]
        [0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12]
        >>> [open_blocks(step, blocks=12, total=8, warmup=1, cooldown=2) for step in range(8)]
        [0, 0, 3, 6, 9, 12, 12, 12]
    """
    if step < 0:
        return 0
    span = _span(total, warmup, cooldown)
    if step >= total - cooldown or span == 1:
        return blocks
    return blocks * max(0, step - warmup) // (span - 1)


def lr_factor(step: int, total: int, warmup: int = 0, cooldown: int = 0, decay: float = 3.73) -> float:
    """Return the learning rate as a multiple of the base rate.

    Args:
        step: Counted from 0.
        total: Number of steps of the schedule.
        warmup: Steps at the start at the first rate. Defaults to 0.
        cooldown: Steps at the end at the base rate. Defaults to 0.
        decay: Exponent at the start. Defaults to 3.73, that is 41.68 times the base rate.

    Examples:
        >>> [round(lr_factor(step, total=5), 2) for step in range(5)]
        [41.68, 16.4, 6.46, 2.54, 1.0]
        >>> [round(lr_factor(step, total=8, warmup=1, cooldown=2), 2) for step in range(8)]
        [41.68, 41.68, 16.4, 6.46, 2.54, 1.0, 1.0, 1.0]
    """
    span = _span(total, warmup, cooldown)
    if step >= total - cooldown or span == 1:
        return 1.0
    return math.exp(decay * (1 - max(0, step - warmup) / (span - 1)))


def trains(role: str, block: int | None, opened: int, blocks: int) -> bool:
    """Return whether a layer trains while the top ``opened`` of ``blocks`` blocks are open.

    With none open the head and CLIP's projection train; with some open the final norm too; with all open everything,
    the position embedding and class token included (and the embedding, unless the constructor froze it permanently).

    Args:
        role: The layer's role, one of :data:`ftsgd_plugin.layers.ROLES`.
        block: The layer's block, counted from the input; ``None`` outside blocks.
        opened: Number of open blocks, from :func:`open_blocks`.
        blocks: Number of blocks of the model.

    Examples:
        >>> [trains('block', block, opened=1, blocks=3) for block in range(3)]
        [False, False, True]
        >>> [trains(role, None, opened=1, blocks=3) for role in ('embed', 'position', 'norm', 'head')]
        [False, False, True, True]
    """
    if role in ('head', 'projection'):
        return True
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
