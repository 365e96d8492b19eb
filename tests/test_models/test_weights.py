"""Every published weight format, written from random weights and loaded tensor by tensor; errors of bad files."""

import contextlib
import hashlib
import re
import socket
import time

import numpy as np
import open_clip
import pytest
import timm
import torch
from helpers import weight_files as files
from helpers.small_models import PUBLISHED
from helpers.weight_files import FORMATS, FullCLIP, bit, clip, convnext, load, randomised, vit
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from safetensors.torch import save_file

from ftsgd_plugin.models.base import pooled
from ftsgd_plugin.models.pretrained import HubFile, read_tensors
from ftsgd_plugin.utils.errors import UserError


@pytest.fixture(scope='module', params=FORMATS)
def published(request, tmp_path_factory):
    """A file in one of the formats: its path, how to build its backbone, and the weights it holds."""
    build, write = FORMATS[request.param]
    weights = randomised(build().net)
    path = tmp_path_factory.mktemp('weights') / request.param
    write(path, weights)
    if request.param == 'ViT-B-16.pt':
        weights = {name: value.half().float() for name, value in weights.items()}
    return path, build, weights


def test_every_format_loads_tensor_by_tensor(published):
    path, build, weights = published
    found = load(build, path).net.state_dict()
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], value), name


def test_log_names_the_file_its_hash_and_the_number_of_tensors(published, caplog):
    path, build, weights = published
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    load(build, path)
    logger.removeHandler(caplog.handler)
    (message,) = [record.getMessage() for record in caplog.records if 'SHA-256' in record.getMessage()]
    count = sum(value.numel() for value in weights.values())
    assert f'all {len(weights)} tensors ({count:,} parameters) filled from {path}' in message
    assert message.endswith(hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize('size', [0, 100, 0.5])
def test_truncated_file_is_one_line(published, tmp_path, size):
    path, build, _ = published
    content = path.read_bytes()
    short = tmp_path / path.name
    short.write_bytes(content[: int(size * len(content)) if isinstance(size, float) else size])
    with pytest.raises(
        UserError, match=rf'{re.escape(str(short))}: cannot be read \(.*; expected the .*weights'
    ) as caught:
        load(build, short)
    assert '\n' not in str(caught.value)


def test_foreign_file_is_one_line(published, tmp_path):
    path, build, _ = published
    foreign = tmp_path / f'foreign{path.suffix}'
    if path.suffix == '.npz':
        np.savez(foreign, unrelated=np.zeros(3))
    elif path.suffix == '.safetensors':
        save_file({'unrelated': torch.zeros(3)}, foreign)
    else:
        torch.save({'unrelated': torch.zeros(3)}, foreign)
    with pytest.raises(UserError, match=rf'{re.escape(str(foreign))}: .*; expected the .*weights of') as caught:
        load(build, foreign)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'published', ['dino.pth', 'convnext.pth', 'open_clip.bin', 'augreg.safetensors'], indirect=True
)
def test_missing_and_extra_tensors_are_named(published, tmp_path):
    path, build, weights = published
    short = dict(list(weights.items())[:-1])
    write = FORMATS[path.name][1]
    write(tmp_path / path.name, short)
    with pytest.raises(UserError, match=r'does not fit: .*is missing') as caught:
        load(build, tmp_path / path.name)
    assert list(weights)[-1] in str(caught.value)
    write(tmp_path / path.name, {**weights, 'blocks.9.extra': torch.zeros(2)})
    with pytest.raises(UserError, match=r'blocks\.9\.extra belongs to another model'):
        load(build, tmp_path / path.name)


@pytest.mark.parametrize(
    'kind, tensor, shape, message',
    [
        ('dino.pth', 'blocks.1.norm1.weight', (1,), r'blocks\.1\.norm1\.weight is \(1,\) instead of \(64,\)'),
        (
            'dino.pth',
            'patch_embed.proj.weight',
            (64, 3, 32, 32),
            r'patch_embed\.proj\.weight is \(64, 3, 32, 32\) instead',
        ),
        ('dino.pth', 'pos_embed', (1, 50, 64), r'pos_embed is \(1, 50, 64\) instead of \(1, 197, 64\)'),
        (
            'augreg.npz',
            'patch_embed.proj.weight',
            (64, 3, 32, 32),
            r'patch_embed\.proj\.weight is \(64, 3, 32, 32\) instead',
        ),
        ('augreg.npz', 'pos_embed', (1, 50, 64), r'pos_embed is \(1, 50, 64\) instead of \(1, 197, 64\)'),
        ('augreg.npz', 'blocks.0.norm2.bias', (1,), r'blocks\.0\.norm2\.bias is \(1,\) instead of \(64,\)'),
        ('bit.npz', 'norm.weight', (1,), r'norm\.weight is \(1,\) instead of \(128,\)'),
        ('bit.npz', 'stages.1.blocks.0.conv2.weight', (32, 32, 1, 1), r'conv2\.weight is \(32, 32, 1, 1\) instead of'),
        (
            'open_clip.bin',
            'positional_embedding',
            (50, 64),
            r'positional_embedding is \(50, 64\) instead of \(197, 64\)',
        ),
        ('open_clip.bin', 'proj', (64, 256), r'proj is \(64, 256\) instead of \(64, 512\)'),
        ('convnext.pth', 'stages.2.blocks.1.gamma', (8,), r'stages\.2\.blocks\.1\.gamma is \(8,\) instead of \(32,\)'),
    ],
)
def test_one_tensor_of_the_wrong_shape_is_named(tmp_path, kind, tensor, shape, message):
    build, write = FORMATS[kind]
    write(tmp_path / kind, {**randomised(build().net), tensor: torch.zeros(shape)})
    with pytest.raises(UserError, match=f'does not fit: .*{message}'):
        load(build, tmp_path / kind)


def test_array_missing_from_an_npz_is_named(tmp_path):
    arrays = files.bit_arrays(randomised(bit().net))
    del arrays['resnet/block2/unit01/a/proj/standardized_conv2d/kernel']
    np.savez(tmp_path / 'bit.npz', **arrays)
    with pytest.raises(UserError, match=r'bit\.npz: cannot be read \(resnet/block2/unit01/a/proj'):
        load(bit, tmp_path / 'bit.npz')


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.savez(tmp_path / 'bit.npz', **{'resnet/root_block/standardized_conv2d/kernel': np.array([{}], dtype=object)})
    with pytest.raises(UserError, match='Object arrays cannot be loaded'):
        load(bit, tmp_path / 'bit.npz')


def test_file_that_runs_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / 'ran'), 'w')

    torch.save({'model': Payload()}, tmp_path / 'bad.pth')
    with pytest.raises(UserError, match=r'bad\.pth: cannot be read'):
        load(convnext, tmp_path / 'bad.pth')
    assert not (tmp_path / 'ran').exists()


def test_missing_file_names_the_expected_file_and_its_address():
    with pytest.raises(
        UserError, match=r"pretrained='no\.npz': no such file; .* \(https://storage.*B_16-i21k.*\.npz\)"
    ):
        load(vit, 'no.npz')
    with pytest.raises(
        UserError, match=r"pretrained='no\.pt': no such file; .*ViT-B-16-quickgelu \(https://.*ViT-B-16\.pt\)"
    ):
        load(clip, 'no.pt')


@pytest.mark.parametrize('build', [vit, clip], ids=['timm', 'open_clip'])
def test_offline_without_a_file_fails_at_once(build, monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(socket, 'create_connection', no_network)
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    for proxy in ('https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(proxy, raising=False)
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r'is not in the cache and its hub cannot be reached; download .* set pretrained'
    ):
        build(pretrained=True).init_weights()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize('cause', ['proxy', 'hub'])
def test_a_hub_that_answers_and_refuses_is_one_line(cause, monkeypatch, caplog):
    """Behind a proxy no connection is tried; each time the file is asked for in the cache first."""
    for proxy in ('https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY', 'HF_HUB_OFFLINE'):
        monkeypatch.delenv(proxy, raising=False)
    asked, tried = [], []

    def connect(address, timeout):
        tried.append(address)
        return contextlib.nullcontext()

    def download(local_only):
        asked.append(local_only)
        raise OSError('404: no such\nfile')

    monkeypatch.setattr(socket, 'create_connection', connect)
    if cause == 'proxy':
        monkeypatch.setenv('https_proxy', 'http://proxy:3128')
    file = HubFile('a model', 'its file', download, 'a command', 'https://hub.example:8443/a')
    with pytest.raises(UserError, match=r'a model cannot be downloaded \(404: no such file\); download its file on'):
        file.fetch()
    assert asked == [True, False] and tried == ([] if cause == 'proxy' else [('hub.example', 8443)])


def test_a_file_without_tensors_is_one_line(tmp_path):
    torch.save({'state_dict': {'epoch': 3}}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'a\.pth: holds no tensors by name; expected weights'):
        read_tensors(tmp_path / 'a.pth', 'weights')


@pytest.mark.parametrize('output, layout, features', [
    (torch.arange(4.0).reshape(2, 2), 'NCHW', [[0, 1], [2, 3]]),
    ((torch.arange(8.0).reshape(2, 2, 2), None), 'NCHW', [[1, 2], [5, 6]]),  # tokens
    (torch.arange(8.0).reshape(1, 2, 2, 2), 'NCHW', [[1.5, 5.5]]),
    ([[torch.arange(8.0).reshape(1, 2, 2, 2)]], 'NHWC', [[3, 4]]),
])  # fmt: skip
def test_one_vector_of_features_per_image(output, layout, features):
    assert pooled(output, layout).tolist() == features


@pytest.mark.parametrize('output, found', [(torch.zeros(3), '1 dimensions'), ({}, 'dict'), ((), 'tuple')])
def test_a_network_that_returns_something_else_is_refused(output, found):
    with pytest.raises(UserError, match=rf'the network returns {found} instead of features \(B, C\), tokens'):
        pooled(output)


def test_by_name_takes_the_hubs_file(monkeypatch, tmp_path):
    import huggingface_hub

    weights = randomised(vit().net)
    files.write_timm_safetensors(tmp_path / 'model.safetensors', weights)
    asked = []

    def hf_hub_download(repository, filename, local_files_only):
        asked.append((repository, filename, local_files_only))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', hf_hub_download)
    backbone = vit(pretrained=True)
    backbone.init_weights()
    assert asked == [('timm/vit_base_patch16_224.augreg_in21k', 'model.safetensors', True)]
    assert torch.equal(backbone.net.cls_token, weights['cls_token'])


def test_positions_are_interpolated_by_the_libraries(tmp_path):
    """A 224-pixel file in a 384-pixel model, against timm's and open_clip's own loaders."""
    weights = randomised(vit().net)
    files.write_timm_safetensors(tmp_path / 'a.safetensors', weights)
    ours = load(lambda **kw: vit(img_size=384, **kw), tmp_path / 'a.safetensors').net
    overlay = dict(file=str(tmp_path / 'a.safetensors'), num_classes=7)
    size = {key: PUBLISHED['vit-b16'][key] for key in ('depth', 'embed_dim', 'num_heads')}
    direct = timm.create_model(
        'vit_base_patch16_224.augreg_in21k', pretrained=True, num_classes=0, img_size=384,
        pretrained_cfg_overlay={**overlay, 'custom_load': False}, **size,
    )  # fmt: skip
    assert ours.pos_embed.shape == (1, 24 * 24 + 1, 64) and torch.equal(ours.pos_embed, direct.pos_embed)

    weights = randomised(clip().net)
    files.write_open_clip_bin(tmp_path / 'b.bin', weights)
    ours = load(lambda **kw: clip(image_size=336, **kw), tmp_path / 'b.bin').net
    state = {f'visual.{name}': value for name, value in weights.items()}
    open_clip.model.resize_pos_embed(state, FullCLIP(clip(image_size=336).net))
    assert ours.positional_embedding.shape == (21 * 21 + 1, 64)
    assert torch.equal(ours.positional_embedding, state['visual.positional_embedding'])


def test_weights_are_loaded_for_training_not_for_building(tmp_path):
    backbone = vit(pretrained=str(tmp_path / 'later.safetensors'))  # no error yet
    weights = randomised(backbone.net)
    files.write_timm_safetensors(tmp_path / 'later.safetensors', weights)
    init_default_scope('mmpretrain')
    head = dict(type='LinearClsHead', num_classes=2, in_channels=64, init_cfg=None)
    classifier = MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))
    classifier.init_weights()
    assert torch.equal(classifier.backbone.net.norm.weight, weights['norm.weight'])
