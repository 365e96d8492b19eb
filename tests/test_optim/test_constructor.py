"""FreezeEmbedOptimWrapperConstructor against MMEngine's default constructor and plain torch.optim loops."""

import copy
import logging
from unittest import mock

import pytest
import torch
from helpers import ROOT
from helpers.small_models import amp_wrapper
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, build_optim_wrapper
from torch import nn
from torch.nn.functional import cross_entropy

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim.ddp import follow_trained_parameters
from ftsgd_plugin.optim.groups import LARGE_EMBEDDING
from ftsgd_plugin.profiling.layer_table import layer_table
from ftsgd_plugin.utils.errors import UserError

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.05)


def build(model, optimizer=SGD, wrapper=None, **paramwise):
    cfg = dict(
        optimizer=dict(optimizer),
        constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
        paramwise_cfg=paramwise or None,
        **(wrapper or {}),
    )
    return build_optim_wrapper(model, cfg)


def hyper_parameters(model, optim_wrapper) -> dict[str, tuple]:
    """Parameter name -> what the optimizer does with it."""
    groups = optim_wrapper.optimizer.param_groups
    by_id = {id(param): (group['lr'], group['weight_decay']) for group in groups for param in group['params']}
    return {name: by_id[id(param)] for name, param in model.named_parameters() if id(param) in by_id}


def batches(count: int, size: int = 4):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 16, 16, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def frozen_values(model) -> dict[str, torch.Tensor]:
    return {name: param.clone() for name, param in model.named_parameters() if not param.requires_grad}


def test_default_freezes_the_embedding_and_nothing_else(vit):
    model = vit(pre_norm=True)
    optim_wrapper = build(model)
    left_out = {name for name, _ in model.named_parameters()} - hyper_parameters(model, optim_wrapper).keys()
    assert left_out == {
        'backbone.patch_embed.projection.weight',
        'backbone.pre_norm.weight',
        'backbone.pre_norm.bias',
    }


def test_groups_are_few_named_and_in_the_order_of_the_layers(vit):
    model = vit(pre_norm=True)
    groups = build(model).optimizer.param_groups
    assert [(group['name'], group['role'], group['block']) for group in groups] == [
        ('pos_embed', 'position', None),
        ('blocks.0', 'block', 0),
        ('blocks.1', 'block', 1),
        ('post_norm', 'norm', None),
        ('head', 'head', None),
    ]
    order = [id(p) for layer in list_layers(model) for p in layer.params.values() if p.requires_grad]
    assert [id(p) for group in groups for p in group['params']] == order


def test_the_groups_of_a_config_are_dictionaries_that_are_read_fast(vit):
    cfg = Config(dict(optimizer=SGD, constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor'))
    groups = build_optim_wrapper(vit(), cfg._cfg_dict).optimizer.param_groups
    assert len(groups) > 1 and {type(group) for group in groups} == {dict}


@pytest.mark.parametrize(
    'paramwise',
    [
        dict(norm_decay_mult=0.0),
        dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
        dict(flat_decay_mult=0.0),
        dict(dwconv_decay_mult=0.5, dcn_offset_lr_mult=0.1),
        dict(custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)}),
        dict(custom_keys={'backbone': dict(lr_mult=0.1), 'backbone.layers.1': dict(lr_mult=0.5)}, norm_decay_mult=0.0),
        dict(bypass_duplicate=True, norm_decay_mult=0.0),
    ],
    ids=lambda options: '+'.join(options),
)
def test_every_default_key_means_what_it_means_to_mmengine(vit, paramwise):
    model = vit(pre_norm=True)
    expected = hyper_parameters(
        model, DefaultOptimWrapperConstructor(dict(type='OptimWrapper', optimizer=dict(SGD)), paramwise)(model)
    )
    ours = hyper_parameters(model, build(model, freeze='none', **paramwise))
    assert ours == expected
    embed = {name for layer in list_layers(model) if layer.role == 'embed' for name in layer.params}
    frozen = hyper_parameters(model, build(model, freeze='embed', **paramwise))
    assert frozen == {name: value for name, value in expected.items() if name not in embed}


def test_decay_rules_split_a_block_into_two_groups_not_one_per_parameter(vit):
    groups = build(vit(), norm_decay_mult=0.0).optimizer.param_groups
    assert [group['name'] for group in groups].count('blocks.0') == 2
    assert len(groups) == 7


def test_extra_custom_keys_reach_the_groups(vit):
    groups = build(vit(), custom_keys={'head': dict(lr_mult=10.0)}).optimizer.param_groups
    head = next(group for group in groups if group['role'] == 'head')
    assert head['lr'] == pytest.approx(1.0) and head['lr_mult'] == 10.0


def test_shared_parameter_is_optimised_once(vit):
    model = vit()
    model.backbone.layers[1].ln1.weight = model.backbone.layers[0].ln1.weight
    held = [id(p) for group in build(model).optimizer.param_groups for p in group['params']]
    assert len(held) == len(set(held)) == len([p for p in model.parameters() if p.requires_grad])


def test_bypassed_duplicates_are_named_in_one_warning(vit, caplog):
    model, logger = vit(), MMLogger.get_current_instance()
    model.backbone.layers[1].ln1.weight = model.backbone.layers[0].ln1.weight
    logger.addHandler(caplog.handler)
    build(model, bypass_duplicate=True, freeze='none')
    logger.removeHandler(caplog.handler)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == 'bypass_duplicate: optimised under their first name only: backbone.layers.1.ln1.weight.'
    assert not logger.disabled


def test_parameters_the_model_holds_fixed_are_in_no_group(vit):
    model = vit(frozen_stages=1)
    trained = hyper_parameters(model, build(model, freeze='none'))
    assert 'backbone.cls_token' not in trained and 'backbone.layers.0.ln1.weight' not in trained
    assert 'backbone.layers.1.ln1.weight' in trained


@pytest.mark.parametrize('optimizer', [SGD, dict(type='AdamW', lr=0.01, weight_decay=0.05)], ids=['sgd', 'adamw'])
@pytest.mark.parametrize('freeze', ['none', 'embed'])
def test_steps_equal_a_plain_torch_loop(vit, optimizer, freeze):
    model, plain = vit(pre_norm=True), vit(pre_norm=True)
    optim_wrapper = build(model, optimizer, freeze=freeze)
    embed = {'backbone.patch_embed.projection.weight', 'backbone.pre_norm.weight', 'backbone.pre_norm.bias'}
    options = {key: value for key, value in optimizer.items() if key != 'type'}
    reference = getattr(torch.optim, optimizer['type'])(
        [p for name, p in plain.named_parameters() if freeze == 'none' or name not in embed], **options
    )
    model.train(), plain.train()
    for inputs, labels in batches(6):
        optim_wrapper.update_params(cross_entropy(model(inputs), labels))
        reference.zero_grad()
        cross_entropy(plain(inputs), labels).backward()
        reference.step()
    expected = dict(plain.named_parameters())
    for name, param in model.named_parameters():
        torch.testing.assert_close(param, expected[name], rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize('optimizer', [SGD, dict(type='AdamW', lr=0.01, weight_decay=0.05)], ids=['sgd', 'adamw'])
def test_frozen_bytes_stay_and_have_no_state(vit, optimizer):
    model = vit(pre_norm=True)
    optim_wrapper = build(model, optimizer)
    before, start = frozen_values(model), {name: p.clone() for name, p in model.named_parameters()}
    for inputs, labels in batches(5):
        optim_wrapper.update_params(cross_entropy(model(inputs), labels))
    own = dict(model.named_parameters())
    assert len(before) == 3
    for name, value in before.items():
        assert torch.equal(own[name], value) and own[name].grad is None
        assert own[name] not in optim_wrapper.optimizer.state
    moved = {name for name, value in start.items() if not torch.equal(own[name], value)}
    assert moved == start.keys() - before.keys()


def test_accumulation_equals_one_large_batch(vit):
    data = batches(4)
    model, whole = vit(), vit()
    accumulating = build(model, dict(type='SGD', lr=0.1, momentum=0.9), dict(accumulative_counts=4))
    accumulating.initialize_count_status(model, 0, 4)
    before = frozen_values(model)
    for inputs, labels in data:
        accumulating.update_params(cross_entropy(model(inputs), labels))
    one = build(whole, dict(type='SGD', lr=0.1, momentum=0.9))
    one.update_params(cross_entropy(whole(torch.cat([x for x, _ in data])), torch.cat([y for _, y in data])))
    for (name, param), expected in zip(model.named_parameters(), whole.parameters()):
        torch.testing.assert_close(param, expected, rtol=1e-5, atol=1e-6, msg=name)
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in before.items())


def test_amp_scales_and_leaves_the_frozen_layers_alone(vit):
    model, plain = vit(), vit()
    with amp_wrapper():
        optim_wrapper = build(model, SGD, dict(type='AmpOptimWrapper', loss_scale=65536.0, dtype='float32'))
    assert isinstance(optim_wrapper, AmpOptimWrapper)
    before = frozen_values(model)
    reference = build(plain)
    for inputs, labels in batches(4):
        optim_wrapper.update_params(cross_entropy(model(inputs), labels))
        reference.update_params(cross_entropy(plain(inputs), labels))
    for (name, param), expected in zip(model.named_parameters(), plain.parameters()):
        torch.testing.assert_close(param, expected, rtol=1e-5, atol=1e-6, msg=name)
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in before.items())


@pytest.mark.gpu
def test_amp_on_a_gpu(vit):
    model = vit().cuda()
    optim_wrapper = build(model, SGD, dict(type='AmpOptimWrapper'))
    before = frozen_values(model)
    for inputs, labels in batches(4):
        with optim_wrapper.optim_context(model):
            loss = cross_entropy(model(inputs.cuda()), labels.cuda())
        optim_wrapper.update_params(loss)
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in before.items())


def test_optimizer_state_survives_a_save_and_load(vit):
    model, twin = vit(), vit()
    optim_wrapper, other = build(model), build(twin)
    data = batches(4)
    for inputs, labels in data[:2]:
        optim_wrapper.update_params(cross_entropy(model(inputs), labels))
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optim_wrapper.state_dict()))
    for inputs, labels in data[2:]:
        optim_wrapper.update_params(cross_entropy(model(inputs), labels))
        other.update_params(cross_entropy(twin(inputs), labels))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters()))


@pytest.mark.parametrize('paramwise', [
    dict(norm_decay_mult=0.0),
    dict(bias_decay_mult=0.0),
    dict(dwconv_decay_mult=0.0),
    dict(custom_keys={'head': dict(lr_mult=1.0), '.cls_token': dict(decay_mult=0.0)}),
], ids=lambda options: next(iter(options)))  # fmt: skip
def test_decay_multiplier_without_weight_decay_names_the_remedy(vit, paramwise):
    with pytest.raises(UserError, match=r'add weight_decay=0\. \(or your value\) to optim_wrapper\.optimizer'):
        build(vit(), dict(type='SGD', lr=0.1), **paramwise)
    build(vit(), dict(type='SGD', lr=0.1, weight_decay=0.0), **paramwise)


def test_what_needs_no_weight_decay_is_accepted_without_and_other_mistakes_are_mmengines(vit):
    build(vit(), dict(type='SGD', lr=0.1), flat_decay_mult=0.0, custom_keys={'head': dict(lr_mult=10.0)})
    for paramwise in ('embed', dict(custom_keys=['head'])):
        with pytest.raises(TypeError):
            build_optim_wrapper(vit(), dict(
                optimizer=dict(type='SGD', lr=0.1),
                constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
                paramwise_cfg=paramwise,
            ))  # fmt: skip


def test_bad_freeze_is_refused_before_anything_is_frozen(vit):
    model = vit()
    with pytest.raises(UserError, match='patch_embd'):
        build(model, freeze=['patch_embd'])
    assert all(param.requires_grad for param in model.parameters())


def test_the_log_has_counts_and_no_line_per_parameter(vit, caplog):
    model, logger = vit(), MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        build(model, norm_decay_mult=0.0, layer_decay_rate=0.5)
    logger.removeHandler(caplog.handler)
    messages = [record.getMessage() for record in caplog.records]
    assert not [line for line in messages if 'paramwise_options' in line or 'is skipped' in line]
    assert [line for line in messages if "freeze='embed'" in line and 'bytes per parameter' in line]
    assert [line for line in messages if 'learning rates: 0.0125 to 0.1' in line]  # two blocks
    assert len(messages) < 8


def warnings_of(build_it, caplog) -> list[str]:
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    build_it()
    logger.removeHandler(caplog.handler)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_large_embedding_is_named_in_a_warning(vit, caplog):
    (warning,) = warnings_of(lambda: build(vit(pre_norm=True)), caplog)
    assert warning.startswith('the frozen embedding (patch_embed to ln_pre) is 40.2% of the parameters')
    assert '\n' not in warning
    caplog.clear()
    assert not warnings_of(lambda: [build(vit(), freeze=choice) for choice in ('none', ['blocks.0.*'])], caplog)


@pytest.mark.parametrize('name', ['bit-r50', 'bit-r101', 'clip-vit-b16', 'clip-vit-l14', 'convnext-b', 'vit-b16'])
def test_the_papers_models_have_no_large_embedding(name):
    rows = layer_table(Config.fromfile(ROOT / f'configs/_base_/models/{name}.py'))
    embed = sum(row['parameters'] for row in rows if row['role'] == 'embed')
    assert 0 < embed / sum(row['parameters'] for row in rows) < LARGE_EMBEDDING / 2


def test_foreign_wrapper_is_refused(vit):
    class ShardedModel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = ShardedModel(vit())
    with (
        mock.patch('torch.distributed.is_initialized', return_value=True),
        pytest.raises(UserError, match='freezing under ShardedModel is not supported'),
    ):
        follow_trained_parameters(model, model.module)
