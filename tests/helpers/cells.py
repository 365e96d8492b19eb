"""A small ELPV and a small DINOv2 inside wheels as those that carry the real ones, in a cache directory."""

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ftsgd_plugin.datasets import elpv
from ftsgd_plugin.utils import packages
from ftsgd_plugin.utils.files import sha256

LEVELS = ('0.0', '0.3333333333333333', '0.6666666666666666', '1.0')
CELLS = [(f'images/cell{i:04}.png', LEVELS[i % 4], ('mono', 'poly')[i % 3 == 0]) for i in range(1, 121)]


def write_cells_wheel(cache: Path, patch: pytest.MonkeyPatch) -> None:
    """120 cells in the layout of ELPV's wheel; its digest, its number of cells and its table become the known ones."""
    wheel = cache / elpv.PACKAGE.file
    text = ''.join(f'{path}  {probability}                 {kind}\n' for path, probability, kind in CELLS)
    image = io.BytesIO()
    Image.new('L', (30, 30), 90).save(image, 'png')
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('elpv_dataset/data/labels.csv', text)
        for path, _, _ in CELLS:
            archive.writestr(f'elpv_dataset/data/{path}', image.getvalue())
    patch.setattr(elpv, 'PACKAGE', packages.Package('elpv-dataset', '1', wheel.name, sha256(wheel)))
    patch.setattr(elpv, 'COUNT', len(CELLS))
    table = elpv.table_of(elpv.parse_list(text))
    patch.setattr(elpv, 'TABLE_SHA256', hashlib.sha256(table.encode()).hexdigest())


def write_weights_wheel(cache: Path, patch: pytest.MonkeyPatch) -> dict:
    """A DINOv2 of two blocks in the layout of its wheel, known by its digest. Its graph cannot be run.

    Returns:
        dict: Options of the config of ``dinov2-vit-s14`` for a network of this size, at 28 pixels.
    """
    import timm
    import torch

    from ftsgd_plugin.models import onnx_weights
    from ftsgd_plugin.models.digest import digest_of
    from helpers.onnx_graphs import graph_of
    from helpers.small_models import RECENT

    small = {key: value for key, value in RECENT['dinov2-vit-s14'].items() if key not in ('type', 'model_name')}
    source = onnx_weights.WEIGHTS['dinov2-vit-s14']
    torch.manual_seed(0)
    weights = timm.create_model(source.model_name, num_classes=0, **small).state_dict()
    wheel = cache / source.package.file
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr(source.member, graph_of(weights, small['depth']))
    known = replace(
        source,
        package=replace(source.package, sha256=sha256(wheel)),
        digest=digest_of({name: value.numpy() for name, value in weights.items()}),
    )
    patch.setitem(onnx_weights.WEIGHTS, 'dinov2-vit-s14', known)
    patch.setattr(onnx_weights, 'DEPTH', small['depth'])
    same = onnx_weights.FeatureComparison(8, 1.0, 1.0, 0.998, 0.97, 1e-4)
    patch.setattr(onnx_weights, 'compare_features', lambda *args: same)
    options = {f'model.backbone.{key}': small[key] for key in ('depth', 'embed_dim', 'num_heads')}
    return {**options, 'model.head.in_channels': small['embed_dim']}
