"""Gradual unfreezing as pure functions of the step (paper's code: ``layer-wise-tune``).

A step is an epoch or an iteration. Of ``total`` steps the first ``warmup`` train the head only and the last
``cooldown`` everything; between them blocks open from the top, one after another.
"""

import math


def _span(total: int, warmup: int, cooldown: int) -> int:
    return max(1, total - warmup - cooldown)


def open_blocks(step: int, blocks: int, total: int, warmup: int = 0, cooldown: int = 0) -> int:
    """How many blocks train, counted from the head: ``floor(blocks * eff / (T - 1))``.

    Args:
        step: Counted from 0; before 0 nothing is open, from ``total`` on everything.
        blocks: Number of blocks of the model.
        total: Steps of the schedule.
        warmup, cooldown: Steps at its ends; ``T = max(1, total - warmup - cooldown)``, ``eff = max(0, step - warmup)``.
    """
    if step < 0:
        return 0
    span = _span(total, warmup, cooldown)
    if step >= total - cooldown or span == 1:
        return blocks
    return blocks * max(0, step - warmup) // (span - 1)


def lr_factor(step: int, total: int, warmup: int = 0, cooldown: int = 0, decay: float = 3.73) -> float:
    """The learning rate as a multiple of the base: ``exp(decay * (1 - eff / (T - 1)))``, 1 at the end.

    Args:
        step, total, warmup, cooldown: As in :func:`open_blocks`.
        decay: Exponent at the start; 3.73 gives 41.68.
    """
    span = _span(total, warmup, cooldown)
    if step >= total - cooldown or span == 1:
        return 1.0
    return math.exp(decay * (1 - max(0, step - warmup) / (span - 1)))


def trains(role: str, block: int | None, opened: int, blocks: int) -> bool:
    """Whether a layer trains while the top ``opened`` of ``blocks`` blocks are open.

    Nothing open: head and CLIP's projection. Some: the final norm too. All: everything, the position embedding and the
    class token included (and the embedding, unless the constructor froze it for good).
    """
    if role in ('head', 'projection'):
        return True
    if role == 'norm':
        return opened > 0
    if role == 'block':
        return block >= blocks - opened
    return opened == blocks
