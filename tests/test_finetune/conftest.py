"""Small images of a user, and a fine-tuning of them without the diagnosis, whose own tests take seconds."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import pytest

OPTIONS = dict(
    model='vit-tiny', hold_out=('sketch',), split_fractions=(0.6, 0.2, 0.2), epochs=1, batch_size=4, workers=0
)
RATES = [1e-3, 1e-2]


def answer_at_once(monkeypatch: pytest.MonkeyPatch, **changes) -> None:
    """Let the diagnosis answer at once and the search try two rates."""
    from ftsgd_plugin.finetune import run
    from ftsgd_plugin.finetune.measure import Measured

    answer = Measured('freeze-embed', 'Use freeze-embed.', 'A reason.', 2.0, 2**24, None, 0.01, 0.005, 1.0)
    answer = replace(answer, **changes)
    monkeypatch.setattr(run, 'measure', lambda cfg, name, method, *rest: answer)
    monkeypatch.setattr(run, 'rates_to_try', lambda method: RATES)


def fine_tune_in(work_dir: Path, data: Path, dry_run: bool = False, **changes):
    from ftsgd_plugin.finetune.options import Options
    from ftsgd_plugin.finetune.run import finetune

    return finetune(Options(str(data), **{**OPTIONS, **changes}), work_dir, dry_run, 'a command')


@pytest.fixture
def fine_tune(own_root, monkeypatch):
    """Fine-tune in a work directory: ``fine_tune(directory, **options)``."""
    answer_at_once(monkeypatch)

    def run(work_dir: Path, data: Path = own_root, **changes):
        return fine_tune_in(work_dir, data, **changes)

    return run


@pytest.fixture(scope='module')
def whole(own_root, tmp_path_factory):
    """A finished fine-tuning and what it has printed; two rates, one epoch."""
    directory, printed = tmp_path_factory.mktemp('whole') / 'a', io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(printed):
        answer_at_once(monkeypatch)
        result = fine_tune_in(directory, own_root)
    return result, printed.getvalue()
