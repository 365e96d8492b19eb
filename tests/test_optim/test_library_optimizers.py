"""Optimizers of other libraries: as in a plain loop of the library, and what it leaves to the training loop."""

import copy
import gc
import importlib
import io

import pytest
import torch
from helpers.digits import load_digits_config
from helpers.other_methods import part
from helpers.small_models import batch, loss_of, small_classifier
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from ftsgd_plugin.freezing import set_trainable
from ftsgd_plugin.optim import library_optimizers
from ftsgd_plugin.optim.library_optimizers import missing_library
from ftsgd_plugin.optim.state import optimizer_state_bytes, predict_state_bytes
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError

LIBRARY = {
    'adafactor': 'torch.optim.Adafactor',
    'lion': 'timm.optim.Lion',
    'schedule-free-sgd': 'schedulefree.SGDScheduleFree',
    'sgd-sai': 'sgd_sai.SGD_sai',
    'adamw-8bit': 'torchao.optim.AdamW8bit',
}
BITSANDBYTES = 'bitsandbytes.optim.AdamW8bit'  # the other library of 8 bits
STEPS = 20


def require(path: str) -> None:
    if path == BITSANDBYTES and missing_library(path):
        pytest.skip("needs bitsandbytes (extra 'bitsandbytes')")


def method_by(method: str, path: str):
    """The method's part, with the optimizer of that path."""
    require(path)
    cfg = part(method).optim_wrapper
    cfg.optimizer.type = path if path == BITSANDBYTES else cfg.optimizer.type
    return cfg


@pytest.fixture(autouse=True)
def default_scope():
    init_default_scope('mmpretrain')


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch):
    """torchao compiles its update, minutes on a CPU; the operators are the same."""
    monkeypatch.setattr(torch, 'compile', lambda function, **options: function)


@pytest.mark.parametrize('method, path', [*LIBRARY.items(), ('adamw-8bit', BITSANDBYTES)])
def test_twenty_steps_are_those_of_the_library_in_a_plain_loop(method, path):
    """With a rate that changes at every step, as a schedule changes it; weights bit-identical."""
    cfg = method_by(method, path)
    model = small_classifier('vit-b16')
    plain = copy.deepcopy(model)
    module, _, name = path.rpartition('.')
    options = {key: value for key, value in cfg.optimizer.items() if key != 'type'}
    theirs = getattr(importlib.import_module(module), name)(plain.parameters(), **options)
    ours = build_optim_wrapper(model, cfg)
    getattr(theirs, 'train', lambda: None)()
    for step in range(STEPS):
        rate = options['lr'] * (1 - step / STEPS)
        for group in ours.optimizer.param_groups:
            group['lr'] = rate
        for group in theirs.param_groups:
            group['lr'] = torch.tensor(rate) if path.startswith('torchao') else rate
        images, labels = batch('vit-b16', step)
        ours.update_params(loss_of(model, images, labels))
        loss_of(plain, images, labels).backward()
        theirs.step()
        theirs.zero_grad()
    start = small_classifier('vit-b16')
    assert any(not torch.equal(one, before) for one, before in zip(model.parameters(), start.parameters()))
    for (key, one), other in zip(model.named_parameters(), plain.parameters()):
        assert torch.equal(one, other), key
    assert all(isinstance(group['lr'], float) for group in ours.optimizer.param_groups)


def test_sgd_sai_scales_what_opens_later_by_its_own_first_gradient():
    """The library measures in its first step only and would fail where a tensor had no gradient then."""
    model = small_classifier('vit-b16')
    optim_wrapper = build_optim_wrapper(model, part('sgd-sai').optim_wrapper)
    late = list(model.backbone.net.blocks[0].parameters())
    set_trainable(late, False)
    images, labels = batch('vit-b16', 0)
    optim_wrapper.update_params(loss_of(model, images, labels))
    head = model.head.fc.weight
    first = optim_wrapper.optimizer.state[head]['gsnr'].clone()
    set_trainable(late, True)
    images, labels = batch('vit-b16', 1)
    grads = torch.autograd.grad(loss_of(model, images, labels), late)
    optim_wrapper.update_params(loss_of(model, images, labels))
    assert torch.equal(optim_wrapper.optimizer.state[head]['gsnr'], first)
    for param, grad in zip(late, grads):
        scale = grad.norm() / (grad.std() + 1e-8)  # arXiv 2412.11768
        torch.testing.assert_close(optim_wrapper.optimizer.state[param]['gsnr'], scale)


def test_sgd_sai_without_momentum_is_refused():
    cfg = part('sgd-sai').optim_wrapper
    cfg.optimizer.momentum = 0.0
    with pytest.raises(UserError, match='does not run without momentum'):
        build_optim_wrapper(small_classifier('vit-b16'), cfg)


@pytest.mark.parametrize('method', LIBRARY)
def test_a_missing_library_is_one_line_with_the_command_that_installs_it(method, monkeypatch):
    kind = LIBRARY[method]
    assert missing_library(kind) is None
    monkeypatch.setattr(library_optimizers.importlib.util, 'find_spec', lambda name: None)
    reason = missing_library(kind)
    if method == 'lion':  # timm is a requirement
        assert reason is None
        return
    assert kind in reason and 'run: pip install' in reason and '\n' not in reason
    with pytest.raises(UserError, match='is not installed or too old'):
        build_optim_wrapper(small_classifier('vit-b16'), part(method).optim_wrapper)


def test_moments_of_bitsandbytes_are_planned_and_a_resumed_run_is_bit_identical():
    cfg = method_by('adamw-8bit', BITSANDBYTES)
    cfg.paramwise_cfg = dict(freeze='embed')

    def train(optim_wrapper, model, steps) -> None:
        for step in steps:
            images, labels = batch('vit-b16', step)
            optim_wrapper.update_params(loss_of(model, images, labels))

    model, again = small_classifier('vit-b16'), small_classifier('vit-b16')
    whole, resumed = (build_optim_wrapper(one, cfg) for one in (model, again))
    planned = predict_state_bytes(whole.optimizer)
    train(whole, model, range(3))
    assert optimizer_state_bytes(whole.optimizer) == planned
    big = [p for p in model.parameters() if p.requires_grad and p.numel() >= 4096]
    small = sum(p.numel() for p in model.parameters() if p.requires_grad and p.numel() < 4096)
    each = sum(p.numel() + 4 * -(-p.numel() // 256) for p in big)  # a byte, and a scale for 256
    assert planned == 2 * each + 2 * 4 * 256 + 8 * small
    saved = io.BytesIO()
    torch.save(dict(model=model.state_dict(), optimizer=whole.state_dict()), saved)
    content = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    again.load_state_dict(content['model'])
    resumed.load_state_dict(content['optimizer'])
    train(whole, model, range(3, 6))
    train(resumed, again, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters()))


def test_moments_of_8_bits_take_a_byte_each_a_scale_for_256_and_a_table():
    weights = 256 * 256
    optimizer = importlib.import_module('torchao.optim').AdamW8bit([torch.nn.Parameter(torch.zeros(256, 256))])
    each = weights + 4 * weights // 256 + 4 * 256
    assert predict_state_bytes(optimizer) == 4 + 2 * each
    optimizer.param_groups[0]['params'][0].grad = torch.ones(256, 256)
    optimizer.step()
    assert optimizer_state_bytes(optimizer) == 4 + 2 * each


class Watch(Hook):
    """Notes the weights that are evaluated and the optimizer's two points."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.evaluated = self.expected = None

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.evaluated = runner.model.head.fc.weight.detach().clone()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        weight = runner.model.head.fc.weight
        z = runner.optim_wrapper.optimizer.state[weight]['z']
        self.expected = (weight - 0.1 * z) / 0.9  # y = 0.9 x + 0.1 z: the average x, arXiv 2405.15682


def schedule_free_run(digits_root, directory, **options):
    cfg = load_digits_config(digits_root, 'sgd', 32, work_dir=str(directory), **options)
    method = part('schedule-free-sgd')
    cfg.optim_wrapper, cfg.param_scheduler, cfg.launcher = method.optim_wrapper, method.param_scheduler, 'none'
    runner = build_runner(cfg)
    watch = Watch()
    runner.register_hook(watch)
    return runner, watch


def test_schedule_free_is_evaluated_and_saved_in_its_eval_mode_and_resumes_bit_identically(digits_root, tmp_path):
    whole, watch = schedule_free_run(digits_root, tmp_path / 'whole', **{'train_cfg.max_epochs': 2})
    whole.train()
    torch.testing.assert_close(watch.evaluated, watch.expected)
    key = 'head.fc.weight'
    saved = torch.load(tmp_path / 'whole/epoch_2.pth', weights_only=True)
    assert torch.equal(saved['state_dict'][key], watch.evaluated)
    assert torch.equal(whole.model.state_dict()[key], watch.evaluated)
    assert all(not group['train_mode'] for group in saved['optimizer']['param_groups'])
    first = tmp_path / 'whole/previous/epoch_1.pth'
    options = {'train_cfg.max_epochs': 2, 'resume': True, 'load_from': str(first)}
    again, _ = schedule_free_run(digits_root, tmp_path / 'again', **options)
    again.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_without_its_hook_schedule_free_refuses_an_evaluation():
    """Under a tool that does not register the hook the numbers would be those of other weights."""
    model = small_classifier('vit-b16')
    wrapper = build_optim_wrapper(model, part('schedule-free-sgd').optim_wrapper)
    images, labels = batch('vit-b16', 0)
    wrapper.update_params(loss_of(model, images, labels))
    model.eval()
    with pytest.raises(UserError, match=r"training mode.*custom_hooks=\[dict\(type='OptimizerModeHook'\)\]"):
        model(images)
    library_optimizers.use_mode(wrapper, training=False)
    model(images)
    library_optimizers.use_mode(wrapper, training=True)
    del wrapper
    gc.collect()
    model(images)  # the check leaves with the optimizer
