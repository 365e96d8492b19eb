"""The style of every figure, and writing a figure to a file."""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import UserError
from .files import atomic_write
from .metrics import ID_METRIC, OOD_METRIC, WORST_GROUP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
COLOURS = {  # by method
    'sgd': '#0072b2',
    'adamw': '#e69f00',
    'freeze-embed': '#009e73',
    'adamw-freeze-embed': '#f0e442',
    'freeze-embed-no-momentum': '#56b4e9',
    'sgd-in-backward': '#000000',
    'gradual-unfreezing': '#cc79a7',
}
ROLE_COLOURS = {'embed': '#d55e00', 'head': '#0072b2'}  # by role of a layer
METRIC_COLOURS = {ID_METRIC: '#0072b2', OOD_METRIC: '#d55e00', WORST_GROUP: '#cc79a7'}
GREY, LIGHT_GREY, DARK_GREY, GRID_GREY = '#999999', '#d9d9d9', '#444444', '#eeeeee'
LIGHT_BLUE = '#9ecae1'
MODEL_MARKS = {  # colour and marker by model; the markers tell them apart without colour
    'clip-vit-b16': ('#d55e00', 'o'),
    'clip-vit-l14': ('#d55e00', 's'),
    'vit-b16': ('#0072b2', 'o'),
    'dino-vit-b16': ('#0072b2', 's'),
    'convnext-b': ('#009e73', '^'),
    'bit-r50': ('#666666', 'v'),
    'bit-r101': ('#666666', 'D'),
}
DPI = 110


def import_pyplot() -> ModuleType:
    """Matplotlib's pyplot with the backend that draws to files.

    Raises:
        UserError: Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError('matplotlib, which draws the figures, is missing; pip install matplotlib.') from error
    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot


def style_axes(axes: 'Axes', grid: bool = False) -> None:
    """Remove the top and the right spine; ``grid`` draws light lines below the data."""
    axes.spines[['top', 'right']].set_visible(False)
    if grid:
        axes.grid(color=GRID_GREY)
        axes.set_axisbelow(True)


def save_figure(figure: 'Figure', path: str | os.PathLike, dpi: int = DPI) -> Path:
    """Write a figure as PNG, atomically, and close it; returns the path.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format='png', dpi=dpi)
    finally:
        import_pyplot().close(figure)
    return Path(path)
