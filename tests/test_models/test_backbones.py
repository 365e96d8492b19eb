"""The backbones of configs/ against timm and open_clip called directly, and one step of freeze-embed on each."""

from typing import NamedTuple

import open_clip
import pytest
import timm
import torch
from helpers import ROOT
from helpers.small_models import RECENT, SMALL, batch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.models import OpenCLIPVisionTower, TimmPooledBackbone
from ftsgd_plugin.utils.errors import UserError

# name -> (library model, features, parameters without head, frozen by freeze-embed, blocks), as in the paper's code.
PAPER = {
    'clip-vit-b16': ('ViT-B-16-quickgelu', 512, 86_192_640, 591_360, 12),
    'clip-vit-l14': ('ViT-L-14-quickgelu', 768, 303_966_208, 604_160, 24),
    'vit-b16': ('vit_base_patch16_224.augreg_in21k', 768, 85_798_656, 590_592, 12),
    'dino-vit-b16': ('vit_base_patch16_224.dino', 768, 85_798_656, 590_592, 12),
    'convnext-b': ('convnext_base.fb_in22k', 1024, 87_566_464, 422_016, 33),
    'bit-r50': ('resnetv2_50x1_bit.goog_in21k', 2048, 23_500_352, 224_320, 13),
    'bit-r101': ('resnetv2_101x1_bit.goog_in21k', 2048, 42_492_480, 224_320, 30),
}
# The parts beside the paper's, likewise; counts from timm: patch convolution, or stem and first stage.
BACKBONES = {
    **PAPER,
    'dinov2-vit-s14': ('vit_small_patch14_dinov2.lvd142m', 384, 21_628_800, 226_176, 12),
    'dinov2-vit-b14': ('vit_base_patch14_dinov2.lvd142m', 768, 85_724_928, 452_352, 12),
    'convnextv2-t': ('convnextv2_tiny.fcmae_ft_in22k_in1k', 768, 27_866_496, 244_800, 15),
    'dinov3-vit-s16': ('vit_small_patch16_dinov3.lvd1689m', 384, 21_586_944, 295_296, 12),
    'siglip2-vit-b16': ('vit_base_patch16_siglip_224.v2_webli', 768, 92_884_224, 590_592, 12),
    'eva02-vit-b14': ('eva02_base_patch14_224.mim_in22k', 768, 85_758_720, 452_352, 12),
    'swinv2-t': ('swinv2_tiny_window8_256.ms_in1k', 768, 27_578_154, 4_896, 12),
}
SMALL_BACKBONES = {**{name: backbone for name, (backbone, _) in SMALL.items()}, **RECENT}
CLASSES = 3


@pytest.fixture(autouse=True)
def default_scope():
    init_default_scope('mmpretrain')


def part(name: str) -> Config:
    """The model part, to be built offline."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/{name}.py')
    cfg.model.backbone.pretrained = False
    cfg.model.head.num_classes = CLASSES
    return cfg


def random_weights(model: torch.nn.Module) -> None:
    """Every parameter non-zero, so that no gradient vanishes by initialisation (layer scale, zeroed norms)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, param in model.named_parameters():
            noise = torch.randn(param.shape, generator=generator) * 0.02
            param.copy_(1 + noise if param.ndim == 1 and name.endswith('weight') else noise)


def library_options(backbone: dict) -> dict:
    """The arguments of a backbone's config that the library takes."""
    return {key: value for key, value in backbone.items() if key not in ('type', 'model_name', 'pretrained')}


def direct_model(name: str, options: dict) -> torch.nn.Module:
    """The library's own model, with the library's arguments that shrink it."""
    library_name = BACKBONES[name][0]
    if not name.startswith('clip'):
        return timm.create_model(library_name, pretrained=False, num_classes=0, **options)
    cfg = open_clip.get_model_config(library_name)
    size = {key: options[key] for key in options if key == 'image_size'}
    cfg['vision_cfg'].update(**size, **options.get('vision_cfg', {}))
    cfg['text_cfg'].update(layers=1)
    return open_clip.CLIP(**cfg)


def direct_forward(name: str, options: dict, backbone, images: torch.Tensor) -> torch.Tensor:
    """The library's own model with the same weights, called directly."""
    model = direct_model(name, options)
    if name.startswith('clip'):
        model.visual.load_state_dict(backbone.net.state_dict())
        return model.encode_image(images)
    model.load_state_dict(backbone.net.state_dict())
    return model(images)


class Classifier(NamedTuple):
    """One of them with random weights: the arguments that shrink its backbone, and its input size."""

    name: str
    model: torch.nn.Module
    options: dict
    pixels: int


@pytest.fixture(params=['small', pytest.param('full', marks=pytest.mark.slow)], scope='module')
def size(request) -> str:
    """Few and narrow blocks of the same classes; slow: the paper's size at 224 pixels."""
    return request.param


@pytest.fixture(params=BACKBONES, scope='module')
def classifier(request, size) -> Classifier:
    """One of them, built once for all tests of this file."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    name, cfg, pixels = request.param, part(request.param).model, 224
    if size == 'small':
        cfg.backbone = {**SMALL_BACKBONES[name], 'model_name': BACKBONES[name][0]}
        cfg.head.in_channels = MODELS.build(cfg.backbone.copy()).num_features
        pixels = SMALL_BACKBONES[name].get('img_size', 32) if name in RECENT else batch(name, 0)[0].shape[-1]
    options = library_options(cfg.backbone)
    model = MODELS.build(cfg)
    random_weights(model)
    return Classifier(name, model, options, pixels)


def test_features_and_input_gradients_equal_the_library(classifier):
    name, model, options, pixels = classifier
    model.eval()
    images = torch.randn(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(1))
    ours_in, direct_in = images.clone().requires_grad_(), images.clone().requires_grad_()
    (ours,) = model.backbone(ours_in)
    direct = direct_forward(name, options, model.backbone, direct_in)
    assert ours.shape == (1, model.backbone.num_features)
    torch.testing.assert_close(ours, direct, rtol=1e-5, atol=1e-6)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    (ours * weights).sum().backward()
    (direct * weights).sum().backward()
    assert ours_in.grad.abs().max() > 0
    torch.testing.assert_close(ours_in.grad, direct_in.grad, rtol=1e-5, atol=1e-5 * direct_in.grad.abs().max().item())
    model.zero_grad()


@pytest.mark.parametrize('name', BACKBONES)
def test_counts_equal_the_papers(name):
    """At full size, on the meta device."""
    _, features, total, frozen, blocks = BACKBONES[name]
    with torch.device('meta'):
        model = MODELS.build(part(name).model)
        assert model.backbone(torch.empty(1, 3, 224, 224))[0].shape == (1, features) == (1, model.backbone.num_features)
        expected = direct_model(name, library_options(part(name).model.backbone))
    expected = expected.visual if name.startswith('clip') else expected
    shapes = {key: value.shape for key, value in expected.state_dict().items()}
    assert {key: value.shape for key, value in model.backbone.net.state_dict().items()} == shapes
    layers = list_layers(model)
    head = features * CLASSES + CLASSES
    assert sum(layer.num_params for layer in layers) == total + head
    assert sum(layer.num_params for layer in layers if layer.role == 'embed') == frozen
    assert sorted({layer.block for layer in layers if layer.role == 'block'}) == list(range(blocks))
    assert sorted(p for layer in layers for p in layer.params) == sorted(n for n, _ in model.named_parameters())
    optim_wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=0.1), constructor='FreezeEmbedOptimWrapperConstructor')
    )
    trained = sum(p.numel() for group in optim_wrapper.optimizer.param_groups for p in group['params'])
    assert trained == total + head - frozen


def test_one_step_changes_every_trained_tensor_and_no_frozen_byte(classifier):
    _, model, _, pixels = classifier
    optim_wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=10.0, momentum=0.9, weight_decay=0.0),
            constructor='FreezeEmbedOptimWrapperConstructor',
            paramwise_cfg=dict(freeze='embed'),
        ),
    )
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    model.train()
    inputs = torch.randint(0, 256, (2, 3, pixels, pixels), generator=torch.Generator().manual_seed(3)).byte()
    model.train_step(dict(inputs=inputs, data_samples=[sample(0), sample(1)]), optim_wrapper)
    unchanged = {name for name, param in model.named_parameters() if torch.equal(param, before[name])}
    assert unchanged == {name for name, param in model.named_parameters() if not param.requires_grad} != set()


def sample(label: int):
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(label)


def test_head_has_pytorchs_default_initialisation():
    torch.manual_seed(5)
    head = MODELS.build(part('bit-r50').model.head)
    head.init_weights()
    torch.manual_seed(5)
    expected = torch.nn.Linear(2048, CLASSES)
    assert torch.equal(head.fc.weight, expected.weight) and torch.equal(head.fc.bias, expected.bias)


def test_authors_convolutional_head_of_bit_is_the_same_distribution():
    """BiT's head was a 1x1 convolution: the same bound 1/sqrt(2048) for weight and bias."""
    torch.manual_seed(5)
    convolution = torch.nn.Conv2d(2048, 30, 1)
    linear = torch.nn.Linear(2048, 30)
    for param in (*convolution.parameters(), *linear.parameters()):
        assert param.abs().max() <= 2048**-0.5
        assert param.numel() < 100 or param.abs().max() > 0.98 * 2048**-0.5


@pytest.mark.parametrize('name', BACKBONES)
def test_normalisation_is_that_of_the_weights(name):
    preprocessor = part(name).model.data_preprocessor
    if name.startswith('clip'):
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    else:
        source = timm.get_pretrained_cfg(BACKBONES[name][0])
        mean, std = source.mean, source.std
    assert preprocessor.mean == pytest.approx([255 * value for value in mean])
    assert preprocessor.std == pytest.approx([255 * value for value in std])


def test_clips_preprocessing_is_reproduced(digits_root, tmp_path):
    """Loading, resizing, cropping and normalising as open_clip does, on an image that is not square."""
    from mmengine.dataset import Compose
    from mmpretrain.registry import TRANSFORMS

    path = tmp_path / 'not_square.png'
    image = Image.open(next(digits_root.glob('train/*.png'))).resize((317, 251), Image.Resampling.BICUBIC)
    image.save(path)
    expected = open_clip.image_transform(224, is_train=False)(image)
    pipeline = Config.fromfile(ROOT / 'configs/_base_/datasets/waterbirds.py').pipeline
    packed = Compose([TRANSFORMS.build(transform) for transform in pipeline])(
        dict(img_path=str(path), gt_label=0, split='test', group='a')
    )
    preprocessor = MODELS.build(
        dict(type='ClsDataPreprocessor', num_classes=2, **part('clip-vit-b16').model.data_preprocessor)
    )
    found = preprocessor(dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]))['inputs'][0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_text_tower_is_not_built():
    tower = OpenCLIPVisionTower('ViT-B-16-quickgelu', vision_cfg=dict(layers=1, width=64))
    assert {name.split('.')[0] for name, _ in tower.net.named_parameters()} == {
        'class_embedding',
        'positional_embedding',
        'proj',
        'conv1',
        'ln_pre',
        'transformer',
        'ln_post',
    }


def test_listing_vit_l14_needs_no_memory():
    with torch.device('meta'):
        model = MODELS.build(part('clip-vit-l14').model)
    assert all(param.is_meta for param in model.parameters())
    layers = list_layers(model)
    assert len(layers) == 103 and layers[-2].role == 'projection'


def test_clip_at_336_pixels():
    with torch.device('meta'):
        model = MODELS.build(part('clip-vit-l14-336').model)
    assert model.backbone.net.positional_embedding.shape == (24 * 24 + 1, 1024)
    assert sum(layer.num_params for layer in list_layers(model) if layer.role == 'embed') == 604_160


@pytest.mark.parametrize(
    'build, message',
    [
        (
            lambda: TimmPooledBackbone('vit_bsae_patch16_224'),
            r"model_name='vit_bsae_patch16_224': timm .* no such model",
        ),
        (lambda: OpenCLIPVisionTower('ViT-B-61'), r"model_name='ViT-B-61': open_clip has no such model"),
        (lambda: TimmPooledBackbone('vit_tiny_patch16_224', pretrained=3), 'pretrained=3 is neither True, False nor'),
    ],
)
def test_unknown_models_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
