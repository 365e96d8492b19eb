"""A run that is behind its rivals ends early and says so; one that is not has the numbers that it would have anyway."""

from dataclasses import replace

import pytest

from ftsgd_plugin.hooks import HalvingHook
from ftsgd_plugin.records import RunRecord, config_hash, read_record, write_record
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError

pytest.importorskip('ray.tune')
EPOCHS = 3


def write_rival(directory, value: float, config_hash: str = 'rival', epochs: int = EPOCHS) -> None:
    metrics = [{'id/accuracy': value, 'ood/accuracy': 1 - value}] * epochs
    record = RunRecord('vit-tiny', 'freeze-embed', 'digits', 1e-2, 0, config_hash, 'finished', metrics, 0)
    directory.mkdir()
    write_record(record, directory)


@pytest.fixture
def train(digits_config, tmp_path):
    """Train beside a rival, with the hook or without it; returns config and record."""

    def run(name: str, **hook):
        options = {'launcher': 'none', 'train_cfg.max_epochs': EPOCHS}
        cfg = digits_config('freeze-embed', subset=64, work_dir=str(tmp_path / name), **options)
        if hook:
            cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='HalvingHook', evaluations=EPOCHS, **hook)]
        runner = build_runner(cfg)
        runner.train()
        return cfg, read_record(tmp_path / name)

    return run


def test_a_run_behind_its_rival_is_stopped_and_one_ahead_has_the_same_numbers(train, tmp_path):
    write_rival(tmp_path / 'better', 1.0)
    write_rival(tmp_path / 'worse', 0.0)
    write_rival(tmp_path / 'other', 1.0, config_hash='of another config')
    plain_cfg, plain = train('plain')
    assert plain.status == 'finished' and len(plain.epochs) == EPOCHS

    cfg, stopped = train('stopped', rivals={'better': 'rival', 'stopped': 'itself'})
    assert stopped.status == 'stopped' and len(stopped.epochs) == 1 and stopped.finished
    assert stopped.epochs == plain.epochs[:1]
    assert stopped.error.startswith('successive halving: id/accuracy ') and 'after 1 of 3 evaluations' in stopped.error
    assert config_hash(cfg) == config_hash(plain_cfg)

    _, ahead = train('ahead', rivals={'worse': 'rival', 'other': 'rival', 'missing': 'rival'})
    same = dict(started='', finished='', command='', resources={})
    assert replace(ahead, **same) == replace(plain, **same)


@pytest.mark.parametrize(
    'values, line',
    [
        (dict(evaluations=0), 'evaluations=0 is not a positive whole number'),
        (dict(evaluations=3, factor=1), 'factor=1 is not more than 1'),
        (dict(evaluations=3, first=0.5), 'first=0.5 is not a positive whole number'),
    ],
)
def test_values_out_of_range_are_one_line(values, line):
    with pytest.raises(UserError, match=line):
        HalvingHook(rivals={}, **values)
