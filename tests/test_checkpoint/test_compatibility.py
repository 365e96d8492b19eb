"""A checkpoint fills the model, or the error names its tensors."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import CheckpointLoader, EpochBasedTrainLoop
from mmpretrain.registry import MODELS

from ftsgd_plugin.checkpoint import compatibility
from ftsgd_plugin.checkpoint.compatibility import Misfit, check_pretrained, misfits
from ftsgd_plugin.hooks import CheckpointFitHook
from ftsgd_plugin.utils.errors import UserError


def test_misfits_name_tensor_and_shapes(vit):
    model = vit()
    weights = model.state_dict()
    assert misfits(model, weights) == []
    del weights['backbone.cls_token']
    weights['head.fc.weight'] = torch.zeros(5, 16)
    weights['extra'] = torch.zeros(1)
    assert list(map(str, misfits(model, weights))) == [
        'backbone.cls_token is missing',
        'extra belongs to another model',
        'head.fc.weight is (5, 16) instead of (3, 16)',
    ]


def test_packaged_weights_fill_the_demo_backbone(digits_config):
    weights = CheckpointLoader.load_checkpoint('ftsgd://vit-tiny')
    assert misfits(MODELS.build(digits_config().model.backbone), weights) == []


def test_positions_that_the_model_resizes_by_itself_fit(vit):
    """MMPretrain's ViT interpolates its positional embedding in a load hook; other sizes do not fit."""
    small, large = vit().backbone, vit(img_size=64).backbone
    weights = small.state_dict()
    assert weights['pos_embed'].shape != large.pos_embed.shape
    assert misfits(large, weights) == []
    before = large.pos_embed.clone()
    large.load_state_dict(weights)  # as MMEngine does
    assert large.pos_embed.shape == before.shape and not torch.equal(large.pos_embed, before)
    weights['cls_token'] = torch.zeros(1, 1, 8)
    assert misfits(large, weights) == [Misfit('cls_token', found=(1, 1, 8), expected=(1, 1, 16))]


@pytest.mark.parametrize('shape, fits', [((), True), ((1,), True), ((2,), False)])
def test_a_scalar_may_be_a_vector_of_one_entry(shape, fits):
    """Files of torch 0.3 hold it like that, and load_state_dict takes it."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    weights = {**model.state_dict(), '0.num_batches_tracked': torch.zeros(shape, dtype=torch.long)}
    assert misfits(model, weights) == ([] if fits else [Misfit('0.num_batches_tracked', found=shape, expected=())])
    if fits:
        model.load_state_dict(weights)


def test_tensor_with_two_names_is_compared_under_both():
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(3, 2)
    for module in (model, other):
        module.second = module.weight
        module.register_buffer('mean', torch.zeros(module.in_features))
        module.register_buffer('average', module.mean)
    names = {misfit.name for misfit in misfits(model, other.state_dict())}
    assert names == {'weight', 'second', 'mean', 'average'}


class Counting(torch.nn.Linear):
    """A module whose state dict holds more than tensors."""

    def get_extra_state(self) -> dict:
        return {'calls': 1}

    def set_extra_state(self, state: dict) -> None:
        raise AssertionError('misfits compares only')


def test_extra_state_is_missing_or_taken_as_it_is():
    model = Counting(2, 2)
    weights = model.state_dict()
    assert misfits(model, weights) == []
    assert misfits(torch.nn.Linear(2, 2), weights) == []
    del weights['_extra_state']
    assert list(map(str, misfits(model, weights))) == ['_extra_state is missing']


def test_misfits_changes_neither_model_nor_weights(vit):
    model, weights = vit(), vit(seed=1, img_size=64).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shapes = {name: value.shape for name, value in weights.items()}
    misfits(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: value.shape for name, value in weights.items()} == shapes


@pytest.fixture
def whole(vit, tmp_path) -> str:
    """A classifier's checkpoint with three classes."""
    path = str(tmp_path / 'whole.pth')
    torch.save({'state_dict': vit(seed=1).state_dict()}, path)
    return path


def pretrained(checkpoint: str, **options) -> dict:
    return dict(type='Pretrained', checkpoint=checkpoint, **options)


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_prefix_names_the_part_of_the_checkpoint_that_is_loaded(vit, whole, prefix):
    model = vit()
    model.backbone.init_cfg = pretrained(whole, prefix=prefix)
    check_pretrained(model)
    model.backbone.init_weights()
    weights = torch.load(whole, weights_only=True)['state_dict']
    assert torch.equal(model.backbone.cls_token, weights['backbone.cls_token'])


def test_without_the_prefix_everything_is_missing(vit, whole):
    model = vit()
    count = len(model.backbone.state_dict())
    for options in ({}, {'prefix': 'encoder'}):
        model.backbone.init_cfg = pretrained(whole, **options)
        with pytest.raises(
            UserError, match=r'^backbone\.init_cfg: .*whole\.pth does not fit VisionTransformer'
        ) as caught:
            check_pretrained(model)
        assert f'is missing and {count - 2} more; ' in str(caught.value) and 'its prefix' in str(caught.value)
        assert '\n' not in str(caught.value)


def test_whole_classifier_may_differ_in_the_head_but_not_in_the_backbone(vit, whole):
    model = vit(num_classes=5)
    model.init_cfg = pretrained(whole)
    check_pretrained(model)
    larger = vit(num_classes=5)
    larger.backbone.register_parameter('extra', torch.nn.Parameter(torch.zeros(1)))
    larger.init_cfg = pretrained(whole)
    with pytest.raises(UserError, match=r'^model\.init_cfg: .*: backbone\.extra is missing; correct'):
        check_pretrained(larger)


def test_every_init_cfg_of_a_list_is_checked(vit, whole, tmp_path):
    model = vit()
    normal = dict(type='TruncNormal', layer='Linear')
    model.backbone.init_cfg = [normal, pretrained(whole, prefix='backbone')]
    check_pretrained(model)
    model.backbone.init_cfg = [normal, pretrained(whole, prefix='backbone'), pretrained(str(tmp_path / 'no.pth'))]
    with pytest.raises(UserError, match=r'no\.pth: no such checkpoint'):
        check_pretrained(model)


@pytest.mark.parametrize('initialised', [False, True])
def test_the_file_of_initialised_weights_is_not_read_again(vit, initialised):
    """As by a test after the training in one process."""
    model = vit()
    model.is_init = initialised
    model.backbone.init_cfg = pretrained('absent.pth')
    loops = dict(_train_loop=object.__new__(EpochBasedTrainLoop), _val_loop=None, _test_loop=None)
    runner = SimpleNamespace(model=model, **loops)
    with contextlib.nullcontext() if initialised else pytest.raises(UserError, match='no such checkpoint'):
        CheckpointFitHook().before_run(runner)


def test_block_that_the_backbone_does_not_have_is_named(vit, whole):
    """A file may hold more than the module (a head), but not more of what the module has."""
    model = vit()
    del model.backbone.layers[1]
    model.backbone.init_cfg = pretrained(whole, prefix='backbone')
    with pytest.raises(UserError, match=r'layers\.1\.ln1\.weight belongs to another model'):
        check_pretrained(model)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What is logged about checkpoints."""
    lines = []
    monkeypatch.setattr(compatibility, 'print_log', lambda text, *args: lines.append(text))
    return lines


def test_norm_after_the_last_block_starts_again_with_a_warning(vit, whole, said):
    """MMPretrain's fine-tuning of MAE weights: a norm over the averaged features in place of the final one."""
    model = vit(out_type='avg_featmap', final_norm=False)
    model.backbone.init_cfg = pretrained(whole, prefix='backbone')
    check_pretrained(model)
    assert len(said) == 1 and 'has no backbone.ln2.weight, backbone.ln2.bias: this norm after the last' in said[0]
    model.backbone.init_weights()
    assert model.backbone.ln2.weight.eq(1).all()
    model.init_cfg, model.backbone.init_cfg = pretrained(whole), None
    check_pretrained(model)
    assert len(said) == 2


@pytest.mark.parametrize('name', ['backbone.extra', 'backbone.ext*', '*.extra'])
def test_parameters_named_in_the_config_may_start_again(vit, whole, said, name):
    model = vit()
    model.backbone.register_parameter('extra', torch.nn.Parameter(torch.zeros(1)))
    model.backbone.init_cfg = pretrained(whole, prefix='backbone')
    with pytest.raises(UserError, match=r"extra is missing; .*new_parameters, e\.g\. new_parameters=\['backbone"):
        check_pretrained(model)
    check_pretrained(model, [name])
    assert len(said) == 1 and 'has no backbone.extra, which may start again' in said[0]


def test_only_what_is_missing_may_start_again_and_names_must_exist(vit, whole):
    model = vit(img_size=64, patch_size=16)
    model.backbone.init_cfg = pretrained(whole, prefix='backbone')
    with pytest.raises(UserError, match=r'patch_embed\.projection\.weight is \(16, 3, 8, 8\) instead of'):
        check_pretrained(model, ['backbone.patch_embed'])
    with pytest.raises(UserError, match=r"new_parameters: 'backbone\.ln9' matches no parameter of the model"):
        check_pretrained(model, ['backbone.ln9'])


def test_training_takes_new_parameters_from_the_config(vit, digits_config, tmp_path, said):
    """By ``load_from`` and by ``init_cfg``."""
    from ftsgd_plugin.runner.build import build_runner

    weights = CheckpointLoader.load_checkpoint('ftsgd://vit-tiny')
    weights = {f'backbone.{name}': value for name, value in weights.items() if name != 'cls_token'}
    torch.save({'state_dict': weights}, tmp_path / 'headless.pth')
    options = {'launcher': 'none', 'load_from': str(tmp_path / 'headless.pth'), 'train_cfg.max_epochs': 1}
    with pytest.raises(UserError, match=r'backbone\.cls_token is missing'):
        build_runner(digits_config('freeze-embed', 32, **options)).train()
    options['new_parameters'] = ['backbone.cls_token']
    build_runner(digits_config('freeze-embed', 32, **options)).train()
    assert any('has no backbone.cls_token, which may start again' in line for line in said)


CLASSES = [f'class {k}' for k in range(6)]


@pytest.mark.parametrize(
    'saved, ours, expected',
    [
        (CLASSES, CLASSES, ''),
        (CLASSES, tuple(CLASSES), ''),
        (CLASSES, CLASSES[:5], ''),  # the head does not fit either
        (None, CLASSES, ''),
        (CLASSES, None, ''),
        (
            CLASSES[::-1],
            CLASSES,
            'trained for class 5, class 4, class 3, class 2, ... (6 classes), and is used here for',
        ),
        ([*CLASSES[:5], 'x'], CLASSES, 'for ..., x (6 classes), and is used here for ..., class 5 (6 classes)'),
    ],
)
def test_head_for_other_classes_is_named_with_both_lists(said, saved, ours, expected):
    checkpoint = {'state_dict': {'head.fc.weight': torch.zeros(1)}, 'meta': {'dataset_meta': {'classes': saved}}}
    compatibility.warn_of_other_classes('a.pth', checkpoint, ours)
    assert len(said) == bool(expected)
    assert not expected or (said[0].startswith('a.pth: its head was trained for ') and expected in said[0])
    older = {**checkpoint, 'meta': {'CLASSES': saved}}  # MMClassification's files
    compatibility.warn_of_other_classes('a.pth', older, ours)
    backbone = {**checkpoint, 'state_dict': {'backbone.w': torch.zeros(1)}}
    compatibility.warn_of_other_classes('a.pth', backbone, ours)
    assert len(said) == 2 * bool(expected)


def test_testing_and_starting_from_a_head_for_other_classes_warn(trained_for_others, digits_config, said):
    from ftsgd_plugin.runner.build import build_runner

    options = {'launcher': 'none', 'load_from': str(trained_for_others), 'train_cfg.max_epochs': 1}
    build_runner(digits_config('freeze-embed', 32, **options)).test()
    build_runner(digits_config('freeze-embed', 32, **options)).train()
    cfg = digits_config('freeze-embed', 32, **{**options, 'load_from': None})
    cfg.model.init_cfg = pretrained(str(trained_for_others))
    build_runner(cfg).train()
    assert len(said) == 3 and all(
        'trained for cat, dog (2 classes), and is used here for digit-0-4, digit-5-9 (2 classes)' in line
        for line in said
    )


@pytest.fixture
def trained_for_others(digits_config, tmp_path):
    """A checkpoint of the demo's model whose two classes have other names."""
    model = MODELS.build(digits_config().model)
    content = {'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': ('cat', 'dog')}}}
    torch.save(content, tmp_path / 'cats.pth')
    return tmp_path / 'cats.pth'
