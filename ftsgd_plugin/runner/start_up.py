"""What MMEngine does at the start of a run and few runs need, done once or when it is needed."""

import contextlib
from collections.abc import Iterator

from mmengine.config import config as mm_config
from mmengine.visualization import Visualizer

from ..utils.patching import replaced


@contextlib.contextmanager
def configs_formatted_once() -> Iterator[None]:
    """Until the end of the block, let yapf format a text again only if it has changed.

    MMEngine formats the config of a run four times: for the file, the log, the visualizer and the message hub.
    """
    if not hasattr(mm_config, 'FormatCode'):  # another MMEngine
        yield
        return
    format_code, latest = mm_config.FormatCode, {}

    def format_once(text: str, **options) -> tuple[str, bool]:
        key = text, repr(options)
        if key not in latest:
            found = format_code(text, **options)
            latest.clear()
            latest[key] = found
        return latest[key]

    with replaced(mm_config, 'FormatCode', format_once):
        yield


def figures_on_demand() -> replaced:
    """Until undone, let new visualizers of MMEngine and MMPretrain wait with their figure until somebody draws.

    A figure takes the import of Matplotlib, more than half a second, and most runs draw none. Visualizers of other
    packages have it at once.
    """
    build = Visualizer._initialize_fig

    def wait(visualizer: Visualizer, fig_cfg: dict) -> tuple:
        if type(visualizer).__module__.partition('.')[0] not in ('mmengine', 'mmpretrain'):
            return build(visualizer, fig_cfg)
        figure = _Figure(visualizer, build, fig_cfg)
        return _OnDemand(figure, 0), _OnDemand(figure, 1), _OnDemand(figure, 2)

    return replaced(Visualizer, '_initialize_fig', wait)


class _Figure:
    """The figure of a visualizer that has none yet: ``parts()`` makes canvas, figure and axes and hands them to it."""

    def __init__(self, visualizer: Visualizer, build, fig_cfg: dict) -> None:
        self._visualizer, self._build, self._cfg = visualizer, build, fig_cfg
        self._parts: tuple | None = None

    def is_new(self) -> bool:
        """Whether the visualizer is being made."""
        return 'dpi' not in vars(self._visualizer)

    def parts(self) -> tuple:
        if self._parts is None:
            owner = self._visualizer
            self._parts = owner.fig_save_canvas, owner.fig_save, owner.ax_save = self._build(owner, self._cfg)
            owner.dpi = owner.fig_save.get_dpi()
        return self._parts


class _OnDemand:
    """In place of a visualizer's canvas, figure, axes or resolution; the first use makes the figure."""

    def __init__(self, figure: _Figure, place: int | None) -> None:
        self._figure, self._place = figure, place

    def __getattr__(self, name: str):
        if name.startswith('__'):  # copy looks for these
            raise AttributeError(name)
        return getattr(self._figure.parts()[self._place], name)

    def get_dpi(self) -> '_OnDemand | float':
        """The resolution, which the visualizer asks for when it is made."""
        return self if self._figure.is_new() else self._figure.parts()[1].get_dpi()

    def __float__(self) -> float:
        return float(self._figure.parts()[1].get_dpi())

    def __rtruediv__(self, length: float) -> float:
        return length / float(self)
