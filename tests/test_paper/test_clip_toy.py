"""The one check that the authors published number by number: CLIP ViT-B/16 on a constant image.

Their notebook (see the header of the asset) sends one image of CLIP's mean colour through the image tower and a fresh
2-way head, takes the sum of the squared outputs as loss, and prints the gradient norms of 54 layers.

The comparison. The head was drawn without a seed, so no norm alone is reproducible. With features f, head (W, b) and
outputs z = Wf + b, the norm of the head is 2 |z| sqrt(|f|^2 + 1), and that of every other layer is 2 |z| times a
function of the direction of W'z. Divided by the norm of the head, a profile is therefore independent of the scale of z
(and of how often the cell was run, which accumulates gradients). The direction remains; its effect is measured with
several random heads. The published profile must lie within what such heads give, layer by layer.

The image was not normalised before the tower, although the authors' class normalises today: a normalised one is zero
everywhere, and so would be the gradient of the patch convolution, which is 29.5 in their output. The tests use it as
it is in their cell.
"""

import csv
import math
import os
import statistics

import pytest
import torch
from helpers import ROOT
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.profiling.gradients import current_norms

WEIGHTS = 'CLIP_VIT_B16_WEIGHTS'  # environment variable: OpenAI's ViT-B-16.pt, or any file OpenCLIPVisionTower reads
COLOUR = (0.48145466, 0.4578275, 0.40821073)
HEADS = 24
SIGMAS, SLACK = 4.0, 0.05  # of the logarithms; the slack is for float32 and half-precision weights


def published() -> dict[str, float]:
    with open(ROOT / 'tests/assets/clip_vit_b16_toy_grad_norms_mean_colour_image.csv', newline='') as file:
        return {row['layer']: float(row['grad_norm']) for row in csv.DictReader(x for x in file if x[0] != '#')}


def classifier(**backbone):
    init_default_scope('mmpretrain')
    cfg = dict(type='OpenCLIPVisionTower', model_name='ViT-B-16-quickgelu', **backbone)
    head = dict(type='LinearClsHead', in_channels=512, num_classes=2, init_cfg=None)
    model = MODELS.build(dict(type='ImageClassifier', backbone=cfg, head=head))
    model.backbone.init_weights()
    return model


def toy_norms(model, seed: int) -> dict[str, float]:
    """The notebook's norms with a random head, by the authors' layer names."""
    torch.manual_seed(seed)
    model.head.fc.reset_parameters()
    model.zero_grad()
    size = model.backbone.native_size
    image = torch.tensor(COLOUR).view(1, 3, 1, 1).tile(1, 1, size, size)
    (features,) = model.backbone(image)
    model.head.fc(features).square().sum().backward()
    layers = list_layers(model)
    return {layers[i].group: norm for i, norm in current_norms(layers).items()}


def implausible(profile: dict[str, float], model) -> list[str]:
    """Layers whose norm, relative to the head, lies outside what random heads give."""
    logs = [
        {name: math.log(norm / norms['head']) for name, norm in norms.items()}
        for norms in (toy_norms(model, seed) for seed in range(HEADS))
    ]
    outside = []
    for name, norm in profile.items():
        values = [log[name] for log in logs]
        allowed = SIGMAS * statistics.stdev(values) + SLACK
        off = math.log(norm / profile['head']) - statistics.mean(values)
        if abs(off) > allowed:
            outside.append(f'{name}: exp({off:.2f}) of the expected, allowed exp({allowed:.2f})')
    return outside


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    return classifier(vision_cfg=dict(layers=3, width=64, head_width=32, patch_size=32))


def test_the_asset_has_the_54_layers_of_our_list():
    with torch.device('meta'):
        model = classifier()
    ours = [layer.group for layer in list_layers(model) if layer.role != 'projection']
    assert list(published()) == ours and len(ours) == 54


def test_norms_equal_the_authors_computation(small):
    """Their ``get_grad_layer``: NumPy norms of the parameters, squared and summed."""
    norms = toy_norms(small, 0)
    for layer in list_layers(small):
        squares = sum(float((param.grad.double().numpy() ** 2).sum()) for param in layer.params.values())
        assert norms[layer.group] == pytest.approx(math.sqrt(squares), rel=1e-5)  # the entries are nearly equal


def test_head_norm_is_the_closed_formula(small):
    norms = toy_norms(small, 1)
    with torch.no_grad():
        (features,) = small.backbone(torch.tensor(COLOUR).view(1, 3, 1, 1).tile(1, 1, 224, 224))
        outputs = small.head.fc(features)
    assert norms['head'] == pytest.approx(2 * outputs.norm().item() * math.sqrt(features.norm().item() ** 2 + 1), 1e-5)


def test_a_normalised_image_would_give_no_gradient_in_the_patch_convolution(small):
    small.zero_grad()
    small.head.fc(small.backbone(torch.zeros(1, 3, 224, 224))[0]).square().sum().backward()
    assert not small.backbone.net.conv1.weight.grad.any() and published()['patch_embed'] > 29


def test_the_comparison_accepts_another_head_at_any_scale_and_finds_one_wrong_layer(small):
    assert implausible(toy_norms(small, 1000), small) == []
    scaled = {name: 3 * norm for name, norm in toy_norms(small, 1001).items()}
    assert implausible(scaled, small) == []
    wrong = toy_norms(small, 1000)
    wrong['trans1_norm1'] *= 4
    (only,) = implausible(wrong, small)
    assert only.startswith('trans1_norm1: ')


@pytest.mark.skipif(
    not os.environ.get(WEIGHTS), reason=f"{WEIGHTS} names no file; set it to OpenAI's ViT-B-16.pt to run this"
)
def test_published_profile_with_the_published_weights():
    model = classifier(pretrained=os.environ[WEIGHTS])
    assert implausible(published(), model) == []
