"""The method parts beside the paper's: source, grid, memory, and what each works with, as data, once.

The paper's own methods and grids, and the labels of all, are in :mod:`ftsgd_plugin.paper`.
"""

from dataclasses import dataclass

from .paper.grids import ADAMW_GRID, GRIDS, SGD_GRID

# What every method part is tested with: embedding frozen, stopped and resumed, accumulated, on two ranks.
COMBINATIONS = ('freeze-embed', 'resume', 'accumulation', 'DDP')
YES = 'yes'


@dataclass(frozen=True)
class OtherMethod:
    """A method part that is not in the paper.

    Attributes:
        source: Where the method is from.
        grid: Learning rates to search; their source is in the header of the part.
        trained_bytes: Weight, gradient and optimizer state in bytes per trained parameter; all but those of flashoptim
            keep weights and gradients in float32.
        freeze_embed: Whether it may freeze the embedding layer too: ``'yes'``, else why not.
    """

    source: str
    grid: tuple[float, ...]
    trained_bytes: float
    freeze_embed: str = YES


# In the order in which tables list them, after the paper's.
OTHER_METHODS = {
    'linear-probe': OtherMethod('head alone', (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), 12, 'frozen anyway'),
    'lp-ft': OtherMethod('arXiv 2202.10054', SGD_GRID, 12),
    'bitfit-norm': OtherMethod('arXiv 2106.10199, 2003.00152', (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 16),
    'surgical-first': OtherMethod(
        'arXiv 2210.11466',
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        16,
        'no: it trains the embedding, the opposite',
    ),
    'lora': OtherMethod('arXiv 2106.09685', SGD_GRID, 16, 'frozen anyway'),
    'adamw-layer-decay': OtherMethod('arXiv 2106.08254, 2111.06377', (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3), 16),
    'adafactor': OtherMethod('arXiv 1804.04235', (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 8),
    'lion': OtherMethod('arXiv 2302.06675', (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5), 12),
    'schedule-free-sgd': OtherMethod('arXiv 2405.15682', (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), 12),
    'sgd-sai': OtherMethod('arXiv 2412.11768', ADAMW_GRID, 12),
    'sgd-gradient-rates': OtherMethod('this project', SGD_GRID, 12),
    'adamw-8bit': OtherMethod('arXiv 2110.02861', ADAMW_GRID, 10),
    'flash-adamw': OtherMethod('arXiv 2602.23349', ADAMW_GRID, 7),
    'flash-sgd': OtherMethod('arXiv 2602.23349', SGD_GRID, 6),
    'freeze-embed-wise-ft': OtherMethod('arXiv 2109.01903', SGD_GRID, 12),
}

# Method part -> its learning rates, the paper's methods first.
METHOD_GRIDS = {**GRIDS, **{name: method.grid for name, method in OTHER_METHODS.items()}}
FLASH = ('flash-adamw', 'flash-sgd')  # on an NVIDIA GPU only
WISE_FT = '-wise-ft'  # ending of the methods whose number is that of the interpolated weights


def combinations_table() -> str:
    """What every method outside the paper works with, as the Markdown table of the documentation."""
    lines = [['part', *COMBINATIONS], ['---'] * (1 + len(COMBINATIONS))]
    for name, method in OTHER_METHODS.items():
        lines.append([f'`{name}`', method.freeze_embed, *[YES] * (len(COMBINATIONS) - 1)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
