"""The style of every figure, and writing one to a file."""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {  # Okabe and Ito's, told apart by colour-blind readers
    'sgd': '#0072b2',
    'adamw': '#e69f00',
    'freeze-embed': '#009e73',
    'adamw-freeze-embed': '#f0e442',
    'freeze-embed-no-momentum': '#56b4e9',
    'sgd-in-backward': '#000000',
    'gradual-unfreezing': '#cc79a7',
}


ROLE_COLOURS = {'embed': '#d55e00', 'head': '#0072b2'}  # of Okabe and Ito: apart in every kind of colour vision
GREY, LIGHT_GREY = '#999999', '#d9d9d9'


def import_pyplot() -> ModuleType:
    """Matplotlib's pyplot, drawing to files.

    Raises:
        UserError: Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            "matplotlib, which draws the pictures, is missing; pip install 'ftsgd_plugin[demo]'."
        ) from error
    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: 'Figure', path: str | os.PathLike) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    path = Path(path)
    unfinished = path.with_name(f'.{path.name}')
    figure.savefig(unfinished, format='png', dpi=110)
    import_pyplot().close(figure)
    os.replace(unfinished, path)
