"""The parts in the order of their value, at full size and for a dry run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from .memory import IN_BACKWARD, PAPERS, PAPERS_BATCH, Bill, every_method, unfreezing_row
from .networks import networks
from .others import finite_rows, real_rows, rows_of_tests
from .speed import compiled_rows, eager_rows

Rows = dict[str, Callable[[], dict]]


class Part(NamedTuple):
    """What runs in a process of its own, within two minutes.

    Attributes:
        name: For the command line and the record.
        rows: Functions that measure a row, by its name.
    """

    name: str
    rows: Callable[[], Rows]


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        device: ``'cuda'``, or ``'cpu'`` for a dry run with small networks.
        steps: Timed steps where speed is measured.
        few: Timed steps of a method, at least 2; pairs of blocks of the check for NaN are one less.
        batch: Images per step where memory and methods are measured.
        epochs: Of gradual unfreezing. Default: the paper's.
        compiled: Arguments of ``torch.compile``.
        vits: timm's ViTs for the check for NaN, by the name of the network.
    """

    device: str
    steps: int
    few: int
    batch: int
    epochs: int | None
    compiled: dict
    vits: dict

    @property
    def small(self) -> bool:
        """Whether it is a dry run: the first network has every kind of row, the others have one row each."""
        return self.device == 'cpu'


FULL = Scale('cuda', 30, 4, 32, None, {}, {'vit-b16': 'vit_base_patch16_224', 'vit-l14': 'vit_large_patch14_224'})
DRY = Scale('cpu', 1, 2, 2, 2, dict(disable=True), {'vit-b16': 'test_vit'})


def _renamed(pattern: str, rows: Rows) -> Rows:
    return {pattern.format(name): measure for name, measure in rows.items()}


def parts(scale: Scale, out: Path) -> list[Part]:
    """All parts.

    Args:
        scale: ``FULL`` or ``DRY``.
        out: Directory of the records.
    """
    known, few = networks(scale.small), scale.few
    speed = dict(device=scale.device, steps=scale.steps)
    vits = ('vit-b16',) if scale.small else ('vit-b16', 'vit-l14')

    def eager(name: str) -> Part:
        rows = partial(eager_rows, known[name], **speed)
        return Part(f'speed-{name}', partial(_shortened, rows, name))

    def compiled(name: str) -> Part:
        rows = partial(compiled_rows, known[name], compiled=scale.compiled, **speed)
        return Part(f'compiled-{name}', partial(_shortened, rows, name))

    def _shortened(rows: Callable[[], Rows], name: str) -> Rows:
        return dict(islice(rows().items(), 1 if scale.small and name != 'vit-b16' else None))

    def memory(name: str) -> Part:
        return Part(f'memory-{name}', partial(_memory, name))

    def _memory(name: str) -> Rows:
        bill = partial(Bill, known[name], device=scale.device, steps=few)
        rows = bill(scale.batch).rows(every_method()[: 1 if scale.small else None])
        if not scale.small:
            batch = PAPERS_BATCH[name]
            rows.update(_renamed(f'{{}}, batch {batch}', bill(batch).rows(PAPERS)))
        return rows

    def in_backward() -> Rows:
        rows = {}
        for name in vits:
            rows.update(_renamed(f'{name}, {{}}', Bill(known[name], 1, scale.device, few).rows(IN_BACKWARD)))
        return rows

    def unfreezing() -> Rows:
        settings = dict(device=scale.device, batch=scale.batch, steps=few, epochs=scale.epochs)
        cases = [('vit-b16', None), ('vit-b16', 'bfloat16'), ('vit-l14', 'bfloat16')]
        return {
            f'{name}, {autocast or "float32"}': partial(unfreezing_row, known[name], autocast, **settings)
            for name, autocast in (cases[1:2] if scale.small else cases)
        }

    return [
        Part('tests', partial(rows_of_tests, scale.small)),
        eager('vit-b16'),
        compiled('vit-b16'),
        memory('vit-b16'),
        memory('vit-l14'),
        Part('finite', partial(finite_rows, scale.vits, scale.batch, few - 1, scale.device)),
        eager('vit-l14'),
        compiled('vit-l14'),
        eager('convnext-b'),
        compiled('convnext-b'),
        Part('unfreezing', unfreezing),
        Part('in-backward', in_backward),
        Part('real', partial(real_rows, not scale.small, out)),
    ]
