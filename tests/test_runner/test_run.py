"""Training by a function call."""

from types import SimpleNamespace

import pytest
import torch

from ftsgd_plugin.runner import run


@pytest.mark.parametrize(
    'resume, expected', [(True, 'epoch_2.pth'), ('auto', 'epoch_2.pth'), ('other.pth', 'other.pth'), (False, None)]
)
def test_checkpoint_to_resume_from(digits_config, tmp_path, monkeypatch, resume, expected):
    path = tmp_path / 'config.py'
    digits_config(load_from=None).dump(path)
    torch.save({}, tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    built, ready = [], SimpleNamespace(train=lambda: None, register_hook=lambda hook: None)
    monkeypatch.setattr(run, 'build_runner', lambda cfg, settings: built.append(cfg) or ready)
    run.train(str(path), resume=resume, work_dir=str(tmp_path))
    assert bool(built[0].get('resume')) == bool(resume)
    found = built[0].load_from
    assert found == expected if expected in (None, 'other.pth') else found == str(tmp_path / expected)
