"""Every export is read by its own library and gives the run's logits; one that does not leaves nothing behind."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import run_process
from helpers.export_runs import CLASSES, pipeline, resize_and_crop, run_of, small_run
from helpers.small_models import MMPRETRAIN_VIT, SMALL
from mmengine.config import Config
from PIL import Image

from ftsgd_plugin.inference.export import export_run, target_names
from ftsgd_plugin.inference.export.target import TOLERANCE, logits_of_run, write_images
from ftsgd_plugin.inference.run import build_model, load_run
from ftsgd_plugin.utils.errors import UserError

FAST = ('vit-b16', 'clip-vit-b16', 'convnext-b')
TINY_VIT = dict(MMPRETRAIN_VIT, arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32))


def tiny_vit_run(*resize):
    return run_of(dict(TINY_VIT), 16, pipeline(16, *resize))


def export(run, to: str, directory: Path, **options) -> str:
    """Export, and return the report."""
    lines = []
    export_run(run, to, directory, report=lines.append, **options)
    return '\n'.join(lines)


def run_usage(directory: Path, monkeypatch) -> dict:
    """Execute the code of the model card as a user would; its variables."""
    (code,) = re.findall(r'```python\n(.*?)```', (directory / 'README.md').read_text(), re.S)
    assert code.count('\n') <= 5
    monkeypatch.chdir(directory)
    names: dict = {}
    exec(code, names)
    return names


@pytest.fixture(scope='module')
def demo(finished_run):
    return load_run(finished_run, device='cpu')


def test_timm_reads_the_demo_with_classes_and_preprocessing(demo, tmp_path, monkeypatch):
    """Not only the check of the export itself: logits of images, by the code of the card."""
    said = export(demo, 'timm', tmp_path / 'out')
    assert re.match(r'timm: 32 images give the logits of the run; largest difference \S+ \(tolerance 0.0001', said)
    assert sorted(os.listdir(tmp_path / 'out')) == ['README.md', 'config.json', 'model.safetensors']
    found = run_usage(tmp_path / 'out', monkeypatch)
    assert tuple(found['names']) == demo.classes and found['model'].num_classes == 2
    files = write_images(demo, tmp_path)
    images = torch.stack([found['transform'](Image.open(file)) for file in files])
    with torch.no_grad():
        torch.testing.assert_close(found['model'](images), logits_of_run(demo, files)[1], rtol=0, atol=1e-5)
    card = (tmp_path / 'out/README.md').read_text()
    for part in (
        *('license: apache-2.0', 'library_name: timm', 'ftsgd://vit-tiny; their licence: apache-2.0'),
        *('Data: digits (Waterbirds)', 'Method: freeze-embed, learning rate 0.003', 'digit-0-4, digit-5-9'),
        f'| ID | {100 * demo.record.selected["id/accuracy"]:.2f} % |',
        f'| OOD average | {100 * demo.record.selected["ood/accuracy"]:.2f} % |',
    ):
        assert part in card


def test_mmpretrain_reads_the_demo_without_this_package(demo, tmp_path, monkeypatch):
    export(demo, 'mmpretrain', tmp_path / 'out')
    text = (tmp_path / 'out/config.py').read_text()
    assert 'ftsgd' not in text and 'LoadRGBImage' not in text
    found = run_usage(tmp_path / 'out', monkeypatch)
    (file, *_) = write_images(demo, tmp_path)
    scores = found['inferencer'](str(file))[0]
    expected = logits_of_run(demo, [file])[1].softmax(1)[0]
    torch.testing.assert_close(torch.from_numpy(scores['pred_scores']), expected, rtol=0, atol=1e-6)
    assert scores['pred_class'] == demo.classes[int(expected.argmax())]


@pytest.mark.parametrize(
    'name', [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL if name not in FAST)]
)
def test_every_backbone_of_the_project_goes_to_timm_and_mmpretrain(name, tmp_path):
    """CLIP's tower too: its projection becomes part of timm's classifier."""
    run = small_run(name)
    assert export(run, 'timm', tmp_path / 'timm').startswith('timm: 32 images')
    assert json.loads((tmp_path / 'timm/config.json').read_text())['label_names'] == list(CLASSES)
    export(run, 'mmpretrain', tmp_path / 'mmpretrain')
    text = (tmp_path / 'mmpretrain/config.py').read_text()
    assert 'TimmClassifier' in text and 'ftsgd' not in text


@pytest.mark.slow
def test_mmpretrain_predicts_in_a_process_that_does_not_import_this_package(demo, tmp_path):
    export(demo, 'mmpretrain', tmp_path / 'out')
    (file, *_) = write_images(demo, tmp_path)
    program = (
        'import sys; from mmpretrain import ImageClassificationInferencer as I; '
        f'found = I("config.py", pretrained="model.pth", device="cpu")({str(file)!r})[0]["pred_score"]; '
        'print("", found, sep=chr(10)); '
        'assert "ftsgd_plugin" not in sys.modules'
    )
    done = run_process(sys.executable, '-W', 'ignore', '-c', program, cwd=tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    expected = float(logits_of_run(demo, [file])[1].softmax(1).max())
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('name', ['clip-vit-b16', pytest.param('clip-vit-l14', marks=pytest.mark.slow)])
def test_open_clip_reads_the_tower_and_the_head(name, tmp_path, monkeypatch):
    assert export(small_run(name), 'open_clip', tmp_path / 'out').startswith('open_clip: 32 images give')
    assert sorted(os.listdir(tmp_path / 'out')) == [
        *('README.md', 'head.safetensors', 'labels.json', 'open_clip_config.json', 'visual.safetensors'),
    ]
    if name == 'clip-vit-l14':  # building the text tower takes seconds
        found = run_usage(tmp_path / 'out', monkeypatch)
        assert found['head']['weight'].shape[0] == len(CLASSES)
    assert 'The text tower is not part of the export' in (tmp_path / 'out/README.md').read_text()


@pytest.mark.parametrize(
    'resize, said',
    [
        (resize_and_crop(20, 16), '32 images'),
        (resize_and_crop(16, 16), '32 images'),
        ([dict(type='torchvision/Resize', size=(16, 16), interpolation='bilinear')], '32 images'),
        ([dict(type='torchvision/Resize', size=(20, 20)), resize_and_crop(0, 16)[1]], '32 normalised images'),
        ([dict(type='torchvision/Grayscale', num_output_channels=3), *resize_and_crop(20, 16)], '32 normalised images'),
    ],
)
def test_a_preprocessing_that_timm_cannot_express_is_said_on_the_card(resize, said, tmp_path):
    assert f'timm: {said} give' in export(tiny_vit_run(*resize), 'timm', tmp_path / 'out')
    card = (tmp_path / 'out/README.md').read_text()
    assert ('timm cannot express the preprocessing' in card) == (said != '32 images')


def test_torch_export_runs_any_batch_without_the_code_of_the_network(tmp_path, monkeypatch):
    run = tiny_vit_run()
    export(run, 'torch-export', tmp_path / 'out')
    found = run_usage(tmp_path / 'out', monkeypatch)
    assert tuple(found['names']) == CLASSES
    inputs, expected = logits_of_run(run, write_images(run, tmp_path))
    for count in (1, 3):
        torch.testing.assert_close(found['model'](inputs[:count]), expected[:count], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnxruntime_runs_any_batch(tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    run = tiny_vit_run()
    export(run, 'onnx', tmp_path / 'out')
    found = run_usage(tmp_path / 'out', monkeypatch)
    inputs, expected = logits_of_run(run, write_images(run, tmp_path))
    for count in (1, 3):
        (logits,) = found['session'].run(['logits'], {'images': inputs[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected[:count], rtol=0, atol=1e-5)
    assert json.loads(found['names']) == list(CLASSES)


def test_transformers_reads_timm_networks(tmp_path, monkeypatch):
    pytest.importorskip('transformers')
    run = tiny_vit_run()
    assert export(run, 'transformers', tmp_path / 'out').startswith('transformers: 32 images')
    found = run_usage(tmp_path / 'out', monkeypatch)
    assert tuple(found['names'].values()) == CLASSES
    (file, *_) = write_images(run, tmp_path)
    inputs = found['processor'](Image.open(file), return_tensors='pt')
    expected = logits_of_run(run, [file])[1]
    torch.testing.assert_close(found['model'](**inputs).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('to', ['onnx', 'torch-export', 'transformers'])
@pytest.mark.parametrize('name', SMALL)
def test_every_backbone_of_the_project_goes_everywhere(name, to, tmp_path):
    export(small_run(name), to, tmp_path / 'out')


def test_torchvision_reads_its_networks(tmp_path, monkeypatch):
    run = run_of(dict(type='TorchvisionBackbone', model_name='shufflenet_v2_x0_5'), 1024, pipeline(32))
    export(run, 'torchvision', tmp_path / 'out')
    found = run_usage(tmp_path / 'out', monkeypatch)
    inputs, expected = logits_of_run(run, write_images(run, tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(found['model'](inputs), expected, rtol=1e-4, atol=1e-4)
    assert found['config']['label_names'] == list(CLASSES)


def test_transformers_reads_its_own_networks(tmp_path, monkeypatch):
    pytest.importorskip('transformers')
    tiny = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    run = run_of(
        dict(type='TransformersBackbone', model_name='vit', image_size=16, patch_size=8, **tiny), 16, pipeline(16)
    )
    export(run, 'transformers', tmp_path / 'out')
    found = run_usage(tmp_path / 'out', monkeypatch)
    assert type(found['model']).__name__ == 'ViTForImageClassification'
    assert tuple(found['names'].values()) == CLASSES


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    ['resnet18', 'vit_b_16', 'convnext_tiny', 'swin_t', 'densenet121', 'mobilenet_v3_small', 'googlenet'],
)
def test_every_family_of_torchvision_goes_home(name, tmp_path):
    backbone = dict(type='TorchvisionBackbone', model_name=name)
    features = build_model(Config(dict(model=dict(type='ImageClassifier', backbone=backbone)))).backbone.num_features
    size = 224 if name.startswith('vit') else 64
    export(run_of(backbone, features, pipeline(size)), 'torchvision', tmp_path / 'out')


@pytest.mark.slow
def test_what_the_library_cannot_load_leaves_nothing_behind(tmp_path):
    """torchvision's MNASNet wants a version number that safetensors files do not hold."""
    run = run_of(dict(type='TorchvisionBackbone', model_name='mnasnet0_5'), 1280, pipeline(64))
    with pytest.raises(UserError, match=r'--to torchvision: the export cannot be loaded back \(version should'):
        export(run, 'torchvision', tmp_path / 'out')
    assert not list(tmp_path.iterdir())


def test_a_convolution_as_the_classifier_is_refused(tmp_path):
    run = run_of(dict(type='TorchvisionBackbone', model_name='squeezenet1_1'), 512, pipeline(64))
    with pytest.raises(UserError, match='torchvision builds squeezenet1_1 differently'):
        export(run, 'torchvision', tmp_path / 'out')
    assert not list(tmp_path.iterdir())


def resnet_run():
    backbone = dict(type='mmpretrain.ResNet', depth=18, num_stages=4, out_indices=(3,), style='pytorch')
    return run_of(backbone, 512, pipeline(32), neck=dict(type='GlobalAveragePooling'))


def test_timm_reads_the_wrapper_of_mmpretrain(tmp_path):
    backbone = dict(type='mmpretrain.TIMMBackbone', model_name='test_resnet', pretrained=True)
    run = run_of(backbone, 96, pipeline(32), neck=dict(type='GlobalAveragePooling'))
    assert export(run, 'timm', tmp_path / 'out').startswith('timm: 32 images')


@pytest.mark.slow
def test_torchvision_reads_the_resnet_of_mmpretrain(tmp_path, monkeypatch):
    run = resnet_run()
    export(run, 'torchvision', tmp_path / 'out')
    found = run_usage(tmp_path / 'out', monkeypatch)
    inputs, expected = logits_of_run(run, write_images(run, tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(found['model'](inputs), expected, rtol=1e-4, atol=1e-4)
    assert found['config']['label_names'] == list(CLASSES)
    export(run, 'timm', tmp_path / 'timm')


def test_what_does_not_fit_is_refused_before_work_with_what_fits(finished_run, tmp_path, run_tool):
    code, err = run_tool('export', finished_run, '--to', 'open_clip', '--out', tmp_path / 'out')
    assert code == 2 and err.count('\n') == 1
    assert 'its network does not fit --to open_clip, which takes OpenCLIPVisionTower with a linear head' in err
    assert err.endswith('fitting: timm, mmpretrain, transformers, onnx, torch-export.\n')
    assert not list(tmp_path.iterdir())


def test_the_program_has_every_target(run_tool):
    code, _ = run_tool('export', '--help')
    assert code == 0 and f'{{{",".join(target_names())}}}' in run_tool.stdout.replace('\n', '').replace(' ', '')


def test_an_export_that_gives_other_logits_leaves_nothing_behind(tmp_path, monkeypatch):
    """Weights that change between writing and reading, as a wrong conversion would."""
    import safetensors.torch

    save = safetensors.torch.save_file

    def save_changed(tensors, *args, **kwargs):
        save({name: value + 10 * TOLERANCE * value.std() for name, value in tensors.items()}, *args, **kwargs)

    monkeypatch.setattr(safetensors.torch, 'save_file', save_changed)
    with pytest.raises(UserError, match=r'the export gives other logits than the run \(largest difference \d') as error:
        export(tiny_vit_run(), 'timm', tmp_path / 'out')
    assert '\n' not in str(error.value) and not list(tmp_path.iterdir())


def test_an_existing_directory_is_not_touched(demo, tmp_path):
    (tmp_path / 'a').touch()
    with pytest.raises(UserError, match='exists; remove it or name another directory'):
        export(demo, 'timm', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_a_missing_extra_is_one_line(demo, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnx' else find(name))
    with pytest.raises(UserError, match=r"--to onnx needs onnx; run: pip install 'ftsgd_plugin\[export\]'"):
        export(demo, 'onnx', tmp_path / 'out')


def test_own_images_are_compared(demo, tmp_path):
    files = write_images(demo, tmp_path)
    Image.new('RGB', (30, 40)).save(tmp_path / 'large.png')
    (tmp_path / 'damaged.png').write_bytes(b'x')
    for name, said in (('large', 'has another size than'), ('damaged', 'not a complete 8-bit image')):
        with pytest.raises(UserError, match=said):
            export(demo, 'mmpretrain', tmp_path / 'out', images=[files[0], tmp_path / f'{name}.png'])
    assert export(demo, 'mmpretrain', tmp_path / 'out', images=files[:5]).startswith('mmpretrain: 5 images')
