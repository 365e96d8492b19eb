"""What is done once or on demand at the start of a run changes nothing that it writes."""

import copy
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers import unique_name
from mmengine.config import Config
from mmengine.config import config as mm_config
from mmengine.visualization import Visualizer
from mmpretrain.visualization import UniversalVisualizer

from ftsgd_plugin.runner.run import train
from ftsgd_plugin.runner.start_up import configs_formatted_once, figures_on_demand


def drawing(visualizer: Visualizer) -> np.ndarray:
    """An image with a text, as MMPretrain draws predictions."""
    image = np.random.RandomState(0).randint(0, 256, (40, 60, 3), dtype=np.uint8)
    visualizer.set_image(image)
    visualizer.draw_texts('cat', np.array([5, 5]))
    return visualizer.get_image()


@pytest.mark.parametrize('kind', [Visualizer, UniversalVisualizer])
def test_what_is_drawn_on_demand_is_that_of_mmengine(kind):
    theirs = kind(unique_name())
    with figures_on_demand():
        ours = kind(unique_name(), fig_save_cfg=dict(frameon=False))
        with mock.patch.object(Visualizer, '_initialize_fig', side_effect=AssertionError('a second figure')):
            assert np.array_equal(drawing(ours), drawing(theirs))
    assert type(ours.fig_save) is type(theirs.fig_save) and type(ours.ax_save) is type(theirs.ax_save)
    assert ours.dpi == theirs.dpi == ours.fig_save.get_dpi()


def test_whatever_is_asked_first_makes_one_figure():
    with figures_on_demand():
        first, second, third, fourth = (UniversalVisualizer(unique_name()) for _ in range(4))
        drawn = UniversalVisualizer(unique_name(), image=np.zeros((4, 6, 3)))
    expected = Visualizer(unique_name()).dpi
    assert float(first.dpi) == expected and 1.0 / second.dpi == 1.0 / expected and third.fig_save.get_dpi() == expected
    axes = fourth.ax_save
    assert axes.figure is fourth.fig_save and fourth.ax_save is axes.figure.axes[0]
    assert axes.get_xlim() == fourth.ax_save.get_xlim()
    assert drawn.get_image().shape == (4, 6, 3)
    copy.copy(axes)  # asks for methods of its own


def test_a_visualizer_of_another_package_has_its_figure_at_once():
    class Own(UniversalVisualizer):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.ax_save.set_title('mine')

    with figures_on_demand():
        assert type(Own(unique_name()).dpi) is float


def test_a_config_is_formatted_again_only_when_it_has_changed():
    cfg = Config(dict(a=1, b=dict(c=[1, 2])))
    texts = [cfg.pretty_text]
    with mock.patch.object(mm_config, 'FormatCode', wraps=mm_config.FormatCode) as formatted, configs_formatted_once():
        texts += [cfg.pretty_text, cfg.pretty_text]
        cfg.b.c.append(3)
        changed = cfg.pretty_text
    assert formatted.call_count == 2
    assert len(set(texts)) == 1 and changed == cfg.pretty_text != texts[0]


def test_a_run_draws_nothing_and_formats_its_config_once(digits_root, tmp_path, monkeypatch):
    formatted = mock.Mock(wraps=mm_config.FormatCode)
    monkeypatch.setattr(mm_config, 'FormatCode', formatted)
    monkeypatch.chdir(tmp_path)
    options = {
        'train_dataloader.dataset.data_root': str(digits_root),
        'train_dataloader.dataset.indices': 32,
        'train_cfg.max_epochs': 1,
        'experiment_name': unique_name(),
    }
    config = Path(__file__).parents[2] / 'configs/vit-tiny_freeze-embed_digits.py'
    figure = mock.patch('matplotlib.figure.Figure', side_effect=AssertionError('a figure'))
    with figure, mock.patch('ftsgd_plugin.runner.run.check_data'):
        runner = train(str(config), work_dir='run', validate=False, cfg_options=options)
    assert formatted.call_count == 1
    text = runner.cfg.pretty_text
    written = [Path('run', config.name), Path(runner.log_dir, 'vis_data/config.py')]
    assert [path.read_text() for path in written] == [text, text]
    assert (
        runner.message_hub.get_info('cfg') == text
        and text in Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
    )
