"""The gradient analysis against plain autograd and the authors' rules; tools/layer_grads.py on both libraries."""

import csv
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from PIL import Image

from ftsgd_plugin.layers import list_layers, paper_parts
from ftsgd_plugin.profiling.gradients import Gradient, GradientProfile, measure_gradients
from ftsgd_plugin.profiling.plots import draw_layer_gradients
from ftsgd_plugin.profiling.setup import pretrained_model, training_loader
from ftsgd_plugin.records import config_hash
from ftsgd_plugin.utils.errors import UserError

TINY = {
    'timm-vit': dict(type='TimmPooledBackbone', model_name='vit_tiny_patch16_224', depth=2, embed_dim=32, num_heads=2),
    'timm-convnext': dict(
        type='TimmPooledBackbone', model_name='convnext_atto', depths=(2, 1, 2, 1), dims=(8, 16, 16, 32)
    ),
    'open_clip': dict(
        type='OpenCLIPVisionTower',
        model_name='ViT-B-16-quickgelu',
        vision_cfg=dict(layers=2, width=32, head_width=16, patch_size=32),
    ),
}
WIDTH = {'timm-vit': 32, 'timm-convnext': 32, 'open_clip': 512}


def batch(size: int, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (size, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.randint(3, (size,), generator=generator).tolist()
    return dict(inputs=list(images), data_samples=[DataSample().set_gt_label(label) for label in labels])


def reference(model, batches) -> dict[str, float]:
    """Layer -> norm of the gradient of the mean loss of all images, by autograd, parameter by parameter."""
    inputs = torch.stack([image for part in batches for image in part['inputs']]).float() / 255
    labels = torch.cat([sample.gt_label for part in batches for sample in part['data_samples']])
    logits = model.head.fc(model.backbone(inputs)[0])
    params = dict(model.named_parameters())
    grads = dict(
        zip(params, torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), list(params.values())))
    )
    return {
        layer.name: math.sqrt(sum(float((grads[name].double() ** 2).sum()) for name in layer.params))
        for layer in list_layers(model)
    }


@pytest.fixture
def model(vit):
    model = vit(pre_norm=True)
    torch.nn.init.normal_(model.backbone.cls_token, std=0.02)
    return model.train()


def test_mean_and_deviation_of_batch_norms_equal_autograd(model):
    before = {name: param.clone() for name, param in model.named_parameters()}
    data = [batch(4, seed) for seed in range(3)]
    expected = [reference(model, [part]) for part in data]
    done = []
    profile = measure_gradients(model, data, progress=done.append)
    assert (profile.batches, profile.batch_size, done) == (3, 4, [1, 2, 3])
    assert [layer.name for layer in profile.layers] == list(expected[0])
    for layer, listed in zip(profile.layers, list_layers(model)):
        values = [norms[layer.name] for norms in expected]
        mean = sum(values) / 3
        assert layer.norm == pytest.approx(mean, rel=1e-5)
        assert layer.std == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2), rel=1e-3, abs=1e-7)
        weight = math.sqrt(sum(float((p.double() ** 2).sum()) for p in listed.params.values()))
        assert layer.norm_per_sqrt_n == pytest.approx(mean / math.sqrt(listed.num_params), rel=1e-5)
        assert layer.norm_per_weight_norm == pytest.approx(mean / weight, rel=1e-5)
    assert all(torch.equal(param, before[name]) and param.grad is None for name, param in model.named_parameters())


def test_accumulated_batches_are_one_batch(model):
    data = [batch(4, seed) for seed in range(5)]
    profile = measure_gradients(model, data, accumulate=2)
    expected = [reference(model, data[:2]), reference(model, data[2:4])]
    assert (profile.batches, profile.batch_size) == (2, 8)
    for layer in profile.layers:
        assert layer.norm == pytest.approx(sum(norms[layer.name] for norms in expected) / 2, rel=1e-5)


def test_one_batch_has_no_deviation(model):
    profile = measure_gradients(model, [batch(4)])
    expected = reference(model, [batch(4)])
    assert {layer.name: layer.norm for layer in profile.layers} == pytest.approx(expected, rel=1e-5)
    assert all(layer.std is None for layer in profile.layers)


def test_count_ends_early_and_an_incomplete_batch_is_refused(model):
    assert measure_gradients(model, (batch(2, i) for i in range(9)), count=2).batches == 2
    with pytest.raises(UserError, match='has no batch of this size'):
        measure_gradients(model, [batch(2)], accumulate=2)


def test_model_with_a_fixed_embedding_has_no_ratio(vit):
    with pytest.raises(UserError, match='the model has no gradient in its embed layers'):
        measure_gradients(vit(frozen_stages=1), [batch(2)])


def parts_of(path: str) -> dict[str, str]:
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/{path}.py').model
    cfg.backbone.pretrained = False
    cfg.head.num_classes = 2
    with torch.device('meta'):
        return paper_parts(list_layers(MODELS.build(cfg)))


@pytest.mark.parametrize('name', ['clip-vit-b16', 'vit-b16'])
def test_middle_of_a_vit_is_the_authors_slice(name):
    """Of the list whose first entry is the merged embedding they draw entries 4 to -2; CLIP's proj is in none."""
    parts = parts_of(name)
    listed = ['embed', *(group for group, part in parts.items() if part != 'embed' and group != 'proj')]
    assert [group for group, part in parts.items() if part == 'middle'] == listed[4:-1]
    assert listed[4] == 'trans0_attn' and listed[-2:] == ['post_norm', 'head']
    embed = [group for group, part in parts.items() if part == 'embed']
    assert embed == (['patch_embed', 'ln_pre'] if name.startswith('clip') else ['patch_embed'])


def test_middle_of_a_convnet_is_its_later_stages():
    assert parts_of('convnext-b') == dict(
        stem='embed', stage0='embed', stage1='middle', stage2='middle', stage3='middle', post_norm='middle', head='head'
    )
    assert parts_of('bit-r50') == {
        'stem': 'embed',
        'conv-block-0': 'embed',
        **{f'conv-block-{k}': 'middle' for k in (1, 2, 3)},
        'head': 'head',
    }


def test_groups_merge_per_batch_and_the_embedding_from_the_means():
    """The authors' Living-17 numbers of CLIP ViT-B/16: 7.8328 and 0.2455 make 7.8367."""

    def group(name, part, norm):
        return Gradient(name, 'block', None, name, part, 1, norm, None, norm, norm)

    groups = [group('patch_embed', 'embed', 7.8328), group('ln_pre', 'embed', 0.2455), group('a', 'middle', 2.5)]
    profile = GradientProfile('clip', 1, 32, (), (*groups, group('b', 'middle', 1.0), group('head', 'head', 2.1)))
    assert profile.embed == pytest.approx(7.8367, abs=1e-4) and profile.head == 2.1
    assert profile.largest_middle.name == 'a' and profile.ratio == pytest.approx(7.8367 / 2.5, rel=1e-4)


def library_config(name: str, digits_root, tmp_path) -> str:
    path = tmp_path / f'{name}.py'
    parts = [str(ROOT / f'configs/_base_/{part}.py') for part in ('methods/sgd', 'datasets/digits-224', 'runtime')]
    path.write_text(
        f'_base_ = {parts!r}\n'
        "model = dict(type='ImageClassifier', data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),\n"
        f'    backbone={TINY[name]!r},\n'
        f"    head=dict(type='LinearClsHead', in_channels={WIDTH[name]}, num_classes=2, init_cfg=None))\n"
        f'train_dataloader = dict(batch_size=4, dataset=dict(data_root={str(digits_root)!r}))\n'
    )
    return str(path)


def test_the_program_on_the_demo_and_both_libraries(run_tool, digits_root, tmp_path):
    demo = ROOT / 'configs/vit-tiny_freeze-embed_digits.py'
    others = [library_config(name, digits_root, tmp_path) for name in TINY]
    options = f'train_dataloader.dataset.data_root={digits_root}'
    code, err = run_tool(
        'layer_grads', demo, demo, *others, '--batches', 2, '--out', tmp_path / 'out', '--cfg-options', options
    )
    assert code == 0, err
    assert 'timm-vit: batch 2/2  eta 0:00' in run_tool.stdout
    profiles = json.loads((tmp_path / 'out/layer_grads.json').read_text())
    names = [f'vit-tiny_freeze-embed_digits ({k})' for k in (1, 2)] + list(TINY)
    assert [profile['name'] for profile in profiles] == names
    assert profiles[0]['layers'] == profiles[1]['layers']  # same seed, same images
    for profile in profiles:
        assert profile['ratio'] == pytest.approx(profile['embed'] / profile['largest_middle'])
        assert profile['batches'] == 2 and profile['layers'][0]['part'] == 'embed'  # measured although frozen
        roles = {layer['role'] for layer in profile['layers']}
        assert {'embed', 'block', 'head'} <= roles
    assert 'projection' in {layer['role'] for layer in profiles[-1]['layers']}
    stages = [group['name'] for group in profiles[3]['groups']]
    assert stages == ['stem', 'stage0', 'stage1', 'stage2', 'stage3', 'post_norm', 'head']
    with open(tmp_path / 'out/layer_grads.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(profile['layers']) for profile in profiles)
    assert float(rows[0]['norm']) == profiles[0]['layers'][0]['norm']
    width, height = Image.open(tmp_path / 'out/layer_grads.png').size
    assert width > 800 and height > 1500
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        f'layer_grads.{suffix}' for suffix in ('csv', 'json', 'png')
    ]


def test_the_first_batches_are_those_of_training(digits_config):
    cfg = digits_config(subset=64)
    before = config_hash(cfg)
    pretrained_model(cfg)
    first, again = (next(iter(training_loader(cfg))) for _ in range(2))
    assert config_hash(cfg) == before  # a run may start from it
    assert torch.equal(first['inputs'], again['inputs']) and len(first['inputs']) == 32


def test_load_from_fills_the_backbone_and_leaves_the_head_fresh(digits_config, tmp_path):
    cfg = digits_config()
    other = pretrained_model(cfg)
    with torch.no_grad():
        for param in other.parameters():
            param += 1
    torch.save(dict(state_dict=other.state_dict()), tmp_path / 'start.pth')
    cfg.load_from = str(tmp_path / 'start.pth')
    model = pretrained_model(cfg)
    for name, param in model.named_parameters():
        assert torch.equal(param, dict(other.named_parameters())[name]) == name.startswith('backbone.')
    torch.save(dict(state_dict={'backbone.cls_token': torch.zeros(1, 1, 64)}), tmp_path / 'part.pth')
    cfg.load_from = str(tmp_path / 'part.pth')
    with pytest.raises(UserError, match=r'part\.pth: does not fit the backbone: backbone\.\S+ is missing'):
        pretrained_model(cfg)


def test_bad_input_is_one_line(run_tool, tmp_path):
    demo = ROOT / 'configs/vit-tiny_sgd_digits.py'
    for arguments, message in (
        ([ROOT / 'configs/_base_/runtime.py'], 'has no model; name a config with one.'),
        ([demo, '--cfg-options', 'train_dataloader=None'], 'has no train_dataloader; name a config with one.'),
        ([demo, '--device', 'cuda:99'], "device='cuda:99': cannot be used"),
        ([demo, '--batches', '0'], "'0' is neither a positive whole number nor all"),
    ):
        code, err = run_tool('layer_grads', *arguments, '--out', tmp_path / 'out')
        assert code == 2 and message in err, err
    assert not list((tmp_path / 'out').iterdir())


def test_missing_matplotlib_is_reported_before_the_measurement(run_tool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    code, err = run_tool('layer_grads', ROOT / 'configs/vit-tiny_sgd_digits.py', '--out', tmp_path / 'out')
    assert code == 2 and 'matplotlib, which draws the figures, is missing' in err
    assert not (tmp_path / 'out').exists()


def test_a_long_network_keeps_readable_labels(tmp_path, monkeypatch):
    """102 layers are labelled one by one; a thousand by block."""
    from matplotlib.axes import Axes

    def profile(blocks: int) -> GradientProfile:
        def gradient(name, role, block, part, norm):
            return Gradient(name, role, block, name, part, 1, norm, 0.1, norm, norm)

        groups = [gradient('patch_embed', 'embed', None, 'embed', 9.0)]
        for i in range(blocks):
            for kind in ('norm1', 'attn', 'norm2', 'mlp'):
                groups.append(gradient(f'trans{i}_{kind}', 'block', i, 'middle', 1.0))
        return GradientProfile('long', 2, 32, (), (*groups, gradient('head', 'head', None, 'head', 2.0)))

    seen, set_xticks = SimpleNamespace(count=0), Axes.set_xticks

    def spy(axes, ticks, labels=None, **options):
        seen.count = len(labels)
        return set_xticks(axes, ticks, labels, **options)

    monkeypatch.setattr(Axes, 'set_xticks', spy)
    draw_layer_gradients([profile(24)], tmp_path / 'a.png')
    assert seen.count == 98
    draw_layer_gradients([profile(100)], tmp_path / 'b.png')
    assert seen.count == 102
