"""``TransformersBackbone`` against transformers called directly; tiny models, saved and loaded by transformers."""

import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.small_models import classifier
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.models import TransformersBackbone, transformers_backbone
from ftsgd_plugin.utils.errors import UserError

transformers = pytest.importorskip('transformers')
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

_VIT = dict(
    hidden_size=64, num_hidden_layers=4, num_attention_heads=2, intermediate_size=256, image_size=32, patch_size=8
)
_TOWERS = dict(vision_config=_VIT, text_config=dict(hidden_size=8))
_MAP = dict(hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 3, 1], num_labels=3)
# Class that saves the weights -> config, options of the config.
MODELS = {
    'ViTForImageClassification': ('ViTConfig', dict(**_VIT, num_labels=3)),
    'Dinov2ForImageClassification': ('Dinov2Config', dict(**_VIT, num_labels=3)),
    'SiglipForImageClassification': ('SiglipConfig', dict(**_TOWERS, num_labels=3)),
    'ConvNextForImageClassification': ('ConvNextConfig', _MAP),
    'ResNetForImageClassification': ('ResNetConfig', dict(**_MAP, embedding_size=16)),
}  # fmt: skip


def save(name: str, config: str, directory, **options) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**options))
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.02)
    model.save_pretrained(directory)
    return model.eval()


def loaded(directory, **options) -> TransformersBackbone:
    backbone = TransformersBackbone(str(directory), pretrained=True, **options)
    backbone.init_weights()
    return backbone.eval()


@pytest.mark.parametrize('name', MODELS)
def test_features_are_what_the_classifier_of_transformers_gets(name, tmp_path):
    config, options = MODELS[name]
    model = save(name, config, tmp_path, **options)
    backbone, seen = loaded(tmp_path), []
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        model(images)
        (features,) = backbone(images)
    torch.testing.assert_close(features, seen[0])
    assert features.shape == (2, backbone.num_features)


def test_weights_of_a_base_model_and_of_one_that_masks_patches(tmp_path):
    """Files without a prefix, with a pooler or a decoder, as the hub has them."""
    images = torch.randn(2, 3, 32, 32)
    base = save('ViTModel', 'ViTConfig', tmp_path / 'base', **_VIT)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tmp_path / 'base')(images)[0], base(images).last_hidden_state[:, 0])
    masked = save('ViTMAEForPreTraining', 'ViTMAEConfig', tmp_path / 'mae', **_VIT, decoder_hidden_size=16,
                  decoder_num_attention_heads=2, decoder_num_hidden_layers=1, decoder_intermediate_size=16)  # fmt: skip
    masked.config.mask_ratio = 0.0  # then the class token sees every patch, in any order
    with torch.no_grad():
        expected = masked.vit(images).last_hidden_state[:, 0]
        torch.testing.assert_close(loaded(tmp_path / 'mae')(images)[0], expected)


def test_a_model_without_a_classification_model_gives_its_pooled_output(tmp_path):
    model = save('DINOv3ViTModel', 'DINOv3ViTConfig', tmp_path, **_VIT)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tmp_path)(images)[0], model(images).pooler_output)


def test_a_type_of_model_is_built_from_its_default_config_and_takes_a_step_of_freeze_embed():
    init_default_scope('mmpretrain')
    backbone = dict(type='TransformersBackbone', model_name='vit', grad_checkpointing=True, **_VIT)
    model = classifier(backbone, 64)
    assert model.backbone.num_features == 64 and model.backbone.net.config.num_hidden_layers == 4
    cfg = dict(optimizer=dict(type='SGD', lr=0.1), constructor='FreezeEmbedOptimWrapperConstructor')
    wrapper = build_optim_wrapper(model, cfg)
    before = {name: param.clone() for name, param in model.named_parameters()}
    wrapper.update_params(model.train()(torch.randn(2, 3, 32, 32)).pow(2).sum())
    moved = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    assert {name for name in before if name not in moved} == set(list_layers(model)[0].params)


@pytest.mark.parametrize('kwargs, message', [
    (dict(model_name='vitt'), r"model_name='vitt': neither a directory, .* nor a type of model; did you mean vit"),
    (dict(model_name='vit', image_sise=32), r'image_sise=32: .* no such key; did you mean image_size'),
    (dict(model_name='siglip2'), r'siglip2: its model in transformers does not take images of one size'),
    (dict(model_name='bert'), r'bert: its model in transformers does not take images'),
    (dict(model_name='owner/name'), r"'owner/name': its config is not in the cache and the hub cannot"),
])  # fmt: skip
def test_mistakes_are_one_line(kwargs, message, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(UserError, match=message) as caught, torch.device('meta'):
        TransformersBackbone(**kwargs)
    assert '\n' not in str(caught.value)


def test_what_a_model_cannot_do_is_one_line():
    refused = 'transformers cannot recompute activations of mobilenet_v1'
    with pytest.raises(UserError, match=refused) as caught, torch.device('meta'):
        TransformersBackbone(model_name='mobilenet_v1', grad_checkpointing=True)
    assert '\n' not in str(caught.value)


def test_an_output_without_pooled_features_is_refused():
    with torch.device('meta'):
        backbone = TransformersBackbone('vit', **_VIT)
    with pytest.raises(UserError, match=r'^ViTForImageClassification of transformers returns no pooled features'):
        backbone.pool(SimpleNamespace(last_hidden_state=torch.zeros(1, 2, 3)))


def test_a_missing_library_and_a_damaged_config_are_one_line(tmp_path, monkeypatch):
    (tmp_path / 'config.json').write_text('{"model_type": ')
    with pytest.raises(UserError, match=r'config\.json: cannot be read as the config of a model of transformers \('):
        TransformersBackbone(str(tmp_path))
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(UserError, match=r"needs transformers \(.*\); run: pip install 'ftsgd_plugin\[hf\]'"):
        TransformersBackbone('vit')


def test_a_repository_has_its_weights_in_either_format_and_a_config(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def hf_hub_download(repository, filename, local_files_only):
        asked.append((filename, local_files_only))
        if filename not in files:
            raise LocalEntryNotFoundError(f'no {filename}\nin {repository}')
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', hf_hub_download)
    monkeypatch.setattr(transformers_backbone, 'hub_answers', lambda: True)
    files = ('config.json', 'pytorch_model.bin')
    model = save('ViTForImageClassification', 'ViTConfig', tmp_path, **_VIT)
    torch.save(model.state_dict(), tmp_path / 'pytorch_model.bin')
    backbone = TransformersBackbone('owner/name', pretrained=True)
    backbone.init_weights()
    own = backbone.net.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items() if name in own)
    assert asked == [('config.json', True), ('model.safetensors', True), ('pytorch_model.bin', True)]
    files = ()
    with pytest.raises(UserError, match=r"'owner/name': the hub has no config of that name \(no config.json"):
        TransformersBackbone('owner/name')


def test_weights_that_do_not_fit_are_one_line(tmp_path):
    save('ViTForImageClassification', 'ViTConfig', tmp_path / 'vit', **_VIT)
    save('ResNetForImageClassification', 'ResNetConfig', tmp_path / 'resnet', **_MAP, embedding_size=16)
    files = {
        tmp_path
        / 'resnet': r'safetensors: does not fit: vit\.embeddings\..* is missing; .* more; expected the weights',
        tmp_path / 'none': r'none: no such file',
    }
    for file, message in files.items():
        backbone = TransformersBackbone(str(tmp_path / 'vit'), pretrained=str(file))
        with pytest.raises(UserError, match=message) as caught:
            backbone.init_weights()
        assert '\n' not in str(caught.value)
    with pytest.raises(UserError, match=r"'vit' is a type of model without weights"):
        TransformersBackbone('vit', pretrained=True, **_VIT).init_weights()
    larger = TransformersBackbone(str(tmp_path / 'vit'), pretrained=True, image_size=64)
    with pytest.raises(UserError, match='does not fit: '):
        larger.init_weights()
