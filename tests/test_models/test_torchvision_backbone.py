"""``TorchvisionBackbone`` against torchvision called directly: features, weights files, every family."""

import re

import pytest
import torch
import torchvision
from helpers.small_models import classifier
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from safetensors.torch import save_file
from torch import nn

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.models import TorchvisionBackbone
from ftsgd_plugin.models.catalog import find_model
from ftsgd_plugin.utils.errors import UserError

# One small network of every family: features, and images on which it is cheap.
FAMILIES = {
    'alexnet': (4096, 64),
    'convnext_tiny': (768, 32),
    'densenet121': (1024, 32),
    'efficientnet_b0': (1280, 32),
    'googlenet': (1024, 32),
    'inception_v3': (2048, 75),
    'maxvit_t': (512, 224),
    'mnasnet0_5': (1280, 32),
    'mobilenet_v2': (1280, 32),
    'mobilenet_v3_small': (1024, 32),
    'regnet_y_400mf': (440, 32),
    'resnet18': (512, 32),
    'shufflenet_v2_x0_5': (1024, 32),
    'squeezenet1_1': (512, 32),
    'swin_t': (768, 32),
    'vgg11': (4096, 32),
    'vit_b_32': (768, 32),
}
# The last layer: linear, in a sequence, a convolution; a state dict with a version; auxiliary classifiers.
VARIED = ('resnet18', 'mobilenet_v3_small', 'squeezenet1_1', 'mnasnet0_5', 'googlenet')
LAST = {'mobilenet_v3_small': 'classifier.3', 'squeezenet1_1': 'classifier.1', 'mnasnet0_5': 'classifier.1'}


def whole(name: str) -> nn.Module:
    """torchvision's own network with random weights, as its pretrained one is built."""
    auxiliary = dict(init_weights=False, transform_input=True) if name == 'googlenet' else {}
    torch.manual_seed(1)
    return torchvision.models.get_model(name, weights=None, **auxiliary).eval()


@pytest.mark.parametrize('name', FAMILIES)
def test_width_of_the_features(name):
    features, _ = FAMILIES[name]
    with torch.device('cpu' if name.startswith('regnet') else 'meta'):
        backbone = TorchvisionBackbone(name, **(dict(image_size=64) if name == 'vit_b_32' else {}))
    assert backbone.num_features == features
    if name in VARIED:
        del backbone.num_features  # now measured by the base class in a traced pass
        assert backbone.num_features == features


@pytest.mark.parametrize('name', VARIED)
def test_features_with_weights_from_a_file_are_what_torchvisions_last_layer_gets(name, tmp_path):
    net, (_, size) = whole(name), FAMILIES[name]
    path = tmp_path / ('weights.pth' if name != 'resnet18' else 'weights.safetensors')
    if path.suffix == '.pth':
        torch.save(net.state_dict(), path)
    else:
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    backbone = TorchvisionBackbone(name, pretrained=str(path)).eval()
    backbone.init_weights()
    seen = []
    net.get_submodule(LAST.get(name, 'fc')).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        net(images)
        (features,) = backbone(images)
    expected = seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]
    torch.testing.assert_close(features, expected)
    assert features.shape == (2, backbone.num_features)


def test_names_of_densenets_old_files_are_translated(tmp_path):
    net = torchvision.models.DenseNet(growth_rate=2, block_config=(1, 2), num_init_features=4)
    old = {re.sub(r'(denselayer\d+\.(?:norm|conv))([12])\.', r'\1.\2.', key): v for key, v in net.state_dict().items()}
    assert 'features.denseblock1.denselayer1.norm.1.weight' in old
    torch.save(old, tmp_path / 'old.pth')
    with torch.device('meta'):
        backbone = TorchvisionBackbone('densenet121', pretrained=str(tmp_path / 'old.pth'))
    backbone.net = torchvision.models.DenseNet(growth_rate=2, block_config=(1, 2), num_init_features=4)
    backbone.net.classifier = nn.Identity()
    backbone.init_weights()
    for key, value in backbone.net.state_dict().items():
        assert torch.equal(value, net.state_dict()[key]), key


def test_position_embeddings_are_interpolated_by_torchvision(tmp_path):
    from torchvision.models.vision_transformer import interpolate_embeddings

    options = dict(patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    net = torchvision.models.VisionTransformer(image_size=32, **options)
    net.encoder.pos_embedding.data.normal_()
    with torch.device('meta'):
        small = TorchvisionBackbone('vit_b_32', image_size=64)
    expected = interpolate_embeddings(64, 8, net.state_dict())['encoder.pos_embedding']
    small.net = torchvision.models.VisionTransformer(image_size=64, **options)
    small.net.heads.head = nn.Identity()
    torch.save(net.state_dict(), tmp_path / 'small.pth')
    small.pretrained = str(tmp_path / 'small.pth')
    small.init_weights()
    assert torch.equal(small.net.encoder.pos_embedding, expected)


@pytest.mark.parametrize('kwargs, message', [
    (dict(model_name='resnet5'), r"model_name='resnet5': torchvision has no such network; did you mean resnet50"),
    (dict(model_name='resnet18', weights='V2'), r"weights='V2': .* no such weights of resnet18, only IMAGENET1K_V1"),
    (dict(model_name='resnet18', grad_checkpointing=True), r'torchvision cannot recompute activations of resnet18'),
    (dict(model_name='resnet18', width=2), r"torchvision cannot build resnet18 with {'width': 2}: .*'width'"),
])  # fmt: skip
def test_mistakes_are_one_line(kwargs, message):
    with pytest.raises(UserError, match=message) as caught:
        TorchvisionBackbone(**kwargs)
    assert '\n' not in str(caught.value)


def test_a_file_of_another_network_is_one_line(tmp_path):
    torch.save(whole('squeezenet1_1').state_dict(), tmp_path / 'other.pth')
    backbone = TorchvisionBackbone('resnet18', pretrained=str(tmp_path / 'other.pth'))
    with pytest.raises(
        UserError, match=r'other\.pth: does not fit: .*; expected the weights of torchvision resnet18 IMAG'
    ):
        backbone.init_weights()


def test_weights_that_cannot_be_downloaded_are_named_with_their_address(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    backbone = TorchvisionBackbone('resnet18', pretrained=True)
    with pytest.raises(
        UserError, match=r'torchvision resnet18 IMAGENET1K_V1 is not in the cache .*resnet18-f37072fd\.pth'
    ):
        backbone.init_weights()
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    torch.save(whole('resnet18').state_dict(), tmp_path / 'hub' / 'checkpoints' / 'resnet18-f37072fd.pth')
    backbone.init_weights()  # from the cache that torch.hub uses
    assert torch.equal(backbone.net.conv1.weight, whole('resnet18').conv1.weight)


def test_a_network_of_the_catalog_takes_a_step_of_freeze_embed():
    init_default_scope('mmpretrain')
    source = find_model('torchvision/resnet18')
    assert source.num_features == 512 and source.image_size == 224
    model = classifier({**source.backbone, 'pretrained': False}, source.num_features)
    names = [layer.name for layer in list_layers(model) if layer.role == 'embed']
    assert names == ['stem', 'layer1.0', 'layer1.1']
    cfg = dict(optimizer=dict(type='SGD', lr=0.1), constructor='FreezeEmbedOptimWrapperConstructor')
    wrapper = build_optim_wrapper(model, cfg)
    before = {name: param.clone() for name, param in model.named_parameters()}
    wrapper.update_params(model(torch.randn(2, 3, 32, 32)).pow(2).sum())
    moved = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    frozen = ('backbone.net.conv1.', 'backbone.net.bn1.', 'backbone.net.layer1.')
    assert moved == {name for name in before if not name.startswith(frozen)}


def test_a_whole_mnasnet_is_registered_and_loads_its_own_state_dict():
    backbone = MODELS.build(dict(type='TorchvisionBackbone', model_name='mnasnet0_5'))
    backbone.load_state_dict(dict(backbone.state_dict()))  # a plain dict has no version, which torchvision asks for
