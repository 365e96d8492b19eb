"""tools/maintain/pretrain_vit_tiny.py writes weights like the shipped ones."""

from helpers import ROOT


def test_pretraining_script_runs(tmp_path, run_tool):
    code, err = run_tool('maintain/pretrain_vit_tiny', '--steps', '2', '--out', tmp_path / 'tiny.safetensors')
    assert code == 0, err
    shipped = ROOT / 'ftsgd_plugin/models/weights/vit-tiny.safetensors'
    assert abs((tmp_path / 'tiny.safetensors').stat().st_size - shipped.stat().st_size) < 100
    assert shipped.stat().st_size < 3e6
