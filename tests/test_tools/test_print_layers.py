"""tools/print_layers.py: the layer table of any config."""

import json

from helpers import ROOT


def table(run_tool, tmp_path, *argv) -> list[dict]:
    code, err = run_tool('print_layers', *argv, '--json', tmp_path / 'layers.json')
    assert code == 0, err
    return json.loads((tmp_path / 'layers.json').read_text())


def test_clip_vit_l14(run_tool, tmp_path):
    rows = table(run_tool, tmp_path, ROOT / 'configs/_base_/models/clip-vit-l14.py')
    assert len(rows) == 103
    frozen = [row for row in rows if row['state'] == 'frozen']
    assert [row['layer'] for row in frozen] == ['patch_embed', 'ln_pre']
    assert sum(row['parameters'] for row in frozen) == 604_160 and sum(row['bytes'] for row in frozen) == 4 * 604_160
    assert rows[4] == dict(
        layer='blocks.0.norm1', role='block', block=0, group='trans0_norm1', tensors=2, parameters=2048, bytes=8192,
        state='trained',
    )  # fmt: skip


def test_freeze_option_and_totals(run_tool):
    code, err = run_tool('print_layers', ROOT / 'configs/_base_/models/bit-r50.py', '--freeze', 'stem')
    assert code == 0, err
    lines = run_tool.stdout.splitlines()
    assert lines[0].split() == ['layer', 'role', 'block', 'group', 'tensors', 'parameters', 'bytes', 'state']
    assert lines[-1] == 'frozen: 1 layers, 9,408 parameters, 37,632 bytes (36.8 KiB)'


def test_the_configs_own_freeze_is_shown(run_tool, tmp_path):
    rows = table(run_tool, tmp_path, ROOT / 'configs/vit-tiny_sgd_digits.py')
    assert {row['state'] for row in rows} == {'trained'}
    rows = table(run_tool, tmp_path, ROOT / 'configs/vit-tiny_sgd_digits.py', '--freeze', 'blocks.0.*', 'head')
    assert [row['layer'] for row in rows if row['state'] == 'frozen'] == [
        *(f'blocks.0.{part}' for part in ('norm1', 'attn', 'norm2', 'mlp')),
        'head',
    ]


def test_a_model_that_cannot_be_built_on_meta(run_tool, tmp_path):
    (tmp_path / 'swin.py').write_text(
        "model = dict(type='ImageClassifier', backbone=dict(type='SwinTransformer', arch='tiny'),\n"
        "             head=dict(type='LinearClsHead', num_classes=2, in_channels=768))\n"
    )
    rows = table(run_tool, tmp_path, tmp_path / 'swin.py')
    assert rows[0]['layer'] == 'patch_embed' and rows[0]['state'] == 'frozen'


def test_config_without_a_model_and_unknown_layer(run_tool, tmp_path):
    assert run_tool('print_layers', ROOT / 'configs/_base_/runtime.py')[1].endswith(
        'has no model; name a config with one.\n'
    )
    code, err = run_tool('print_layers', ROOT / 'configs/vit-tiny_sgd_digits.py', '--freeze', 'blok')
    assert code == 2 and "'blok' matches no layer" in err


def test_table_that_cannot_be_written_is_one_line_at_once(run_tool, tmp_path):
    (tmp_path / 'directory').mkdir()
    for path, message in (
        ('nodir/x.json', 'its directory does not exist; create it first.'),
        ('directory', 'is a directory; name a file.'),
    ):
        code, err = run_tool('print_layers', ROOT / 'configs/vit-tiny_sgd_digits.py', '--json', tmp_path / path)
        assert (code, err) == (2, f'error: --json {tmp_path / path}: {message}\n') and not run_tool.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['directory']


def test_a_model_of_a_library_needs_no_config(run_tool, tmp_path):
    rows = table(run_tool, tmp_path, '--model', 'timm/resnet18')
    assert rows[0]['layer'] == 'stem' and rows[0]['state'] == 'frozen' and rows[-1]['layer'] == 'head'
    rows = table(run_tool, tmp_path, '--model', 'timm/vit_tiny_patch16_224', '--freeze', 'none')
    assert {row['state'] for row in rows} == {'trained'} and rows[0]['layer'] == 'patch_embed'


def test_a_mistaken_model_name_and_no_model_at_all(run_tool):
    code, err = run_tool('print_layers', '--model', 'timm/resnet81')
    assert code == 2 and 'timm has no such model; did you mean' in err and err.count('\n') == 1
    assert run_tool('print_layers')[0] == 2
    assert run_tool('print_layers', ROOT / 'configs/vit-tiny_sgd_digits.py', '--model', 'timm/resnet18')[0] == 2
