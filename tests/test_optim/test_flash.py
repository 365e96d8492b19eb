"""Optimizers of flashoptim: the network in bfloat16, what is refused, and the plan against the library's own state."""

import copy
import importlib
import sys
from contextlib import contextmanager

import pytest
import torch
from helpers.digits import load_digits_config
from helpers.other_methods import has_gradient, part, require
from helpers.small_models import SMALL, batch, loss_of, small_classifier
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from ftsgd_plugin import read_record
from ftsgd_plugin.inference.run import load_run
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.methods import FLASH
from ftsgd_plugin.optim.flash import cast_weights, planned_bytes
from ftsgd_plugin.optim.state import optimizer_state_bytes, predict_state_bytes, tensor_bytes
from ftsgd_plugin.profiling.measure import _MeasuredModel
from ftsgd_plugin.profiling.phases import Method, load_method
from ftsgd_plugin.profiling.predict import Predictor
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.paths import config_path


@pytest.fixture(autouse=True)
def default_scope():
    init_default_scope('mmpretrain')


def network() -> Config:
    cfg = Config.fromfile(config_path('_base_/models/vit-tiny.py'))
    cfg.model.head.num_classes = 5
    return cfg


@pytest.mark.parametrize('name', [pytest.param(one, marks=[pytest.mark.slow] * (one == 'bit-r101')) for one in SMALL])
def test_a_network_in_bfloat16_keeps_embedding_head_and_logits_in_float32(name):
    plain, model = small_classifier(name), small_classifier(name)
    cast_weights(model)
    cast_weights(model)  # a second call changes nothing
    for layer in list_layers(model):
        full = layer.role in ('embed', 'head')
        for key, param in layer.params.items():
            norm = 'running' in ' '.join(dict(model.get_submodule(key.rpartition('.')[0]).named_buffers()))
            assert param.dtype == (torch.float32 if full or norm else torch.bfloat16), key
            expected = dict(plain.named_parameters())[key].to(param.dtype)
            assert torch.equal(param, expected), key
    images, labels = batch(name, 0)
    loss = loss_of(model, images, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(plain, images, labels), rtol=0.05, atol=0.05)
    assert all(param.grad.dtype == param.dtype for param in model.parameters())
    copy.deepcopy(model)(images)


@pytest.mark.parametrize('method', FLASH)
def test_without_a_gpu_the_part_is_refused_in_a_line(method, monkeypatch):
    monkeypatch.setitem(sys.modules, 'flashoptim', sys)  # installed, or not
    monkeypatch.setattr('ftsgd_plugin.optim.constructor.missing_library', lambda kind: None)
    cfg = load_method(method).optim_wrapper
    model = small_classifier('vit-b16')
    with pytest.raises(UserError, match=r"runs on an NVIDIA GPU and this machine has none .*'adamw-8bit'") as error:
        build_optim_wrapper(model, cfg)
    assert '\n' not in str(error.value)
    assert all(param.dtype == torch.float32 for param in model.parameters())
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(UserError, match='leave out --amp'):
        build_optim_wrapper(model, {**cfg, 'type': 'AmpOptimWrapper'})


@pytest.mark.parametrize('method, moments', [('flash-adamw', 2), ('flash-sgd', 1)])
def test_the_plan_has_7_and_6_bytes_per_parameter(method, moments):
    predictor = Predictor(network(), 'cpu', 1, 'bfloat16')
    (phase,) = predictor.predict(load_method(method), 1).phases
    sizes = dict.fromkeys(('embed', 'head'), 0)
    for layer in list_layers(predictor.fake.model):
        sizes[layer.role] = sizes.get(layer.role, 0) + layer.num_params
    embedding, head = sizes['embed'], sizes['head']
    trained = head + embedding * (method == 'flash-adamw')
    full = 4 * (embedding + head) + 4 * trained  # weights and gradients
    inside = phase.parameters - embedding - head
    per = (phase.weights + phase.gradients - full + phase.state - moments * trained) / inside
    assert per == pytest.approx({2: 7, 1: 6}[moments] + moments / 16, rel=0.01)  # a scale of 2 bytes for 32 moments


def test_the_plan_of_a_network_in_bfloat16_is_that_of_a_real_step():
    cfg = network()
    planned = Predictor(cfg, 'cpu', 4, None).predict(load_method('flash-sgd'), 1).phases[0]
    real = _MeasuredModel(cfg, 4, None, 'cpu')
    cast_weights(real.model)
    plain = dict(optimizer=dict(type='SGD', lr=0.0), constructor='FreezeEmbedOptimWrapperConstructor')
    (counted,) = real.measure(Method('plain', plain, {}), 1, 1, count=True)
    assert (planned.weights, planned.gradients) == (counted.weights, counted.gradients)
    assert planned.activations == pytest.approx(counted.activations, rel=0.05)
    assert planned.peak - planned.state == pytest.approx(counted.peak, rel=0.05)


@contextmanager
def without_kernels(monkeypatch):
    """The library on a CPU: its own allocations, and nothing computed in its kernels."""
    library = importlib.import_module('flashoptim.optimizers')

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: None

    class Library:
        """PyTorch with a GPU."""

        class cuda:
            is_available = staticmethod(lambda: True)

        def __getattr__(self, name):
            return getattr(torch, name)

    for name in vars(library):
        if name.startswith('_triton_') and name.endswith('_kernel'):
            monkeypatch.setattr(library, name, Kernel())
    monkeypatch.setattr(library, 'torch', Library())
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, 'is_cuda', True, raising=False)
        yield library


@pytest.mark.parametrize('name, options', [
    ('FlashAdamW', {}), ('FlashAdamW', dict(master_weight_bits=32)), ('FlashSGD', dict(momentum=0.9)),
    ('FlashLion', {}), ('FlashSGDW', dict(momentum=0.9, quantize=False)),
])  # fmt: skip
def test_planned_state_is_that_of_the_library(name, options, monkeypatch):
    require('flash-adamw')
    model = small_classifier('vit-b16')
    cast_weights(model)
    params = list(model.parameters())
    with without_kernels(monkeypatch) as library:
        optimizer = getattr(library, name)([dict(params=params[:3], lr=0.5), dict(params=params[3:])], **options)
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
        counted = optimizer_state_bytes(optimizer)
        saved = tensor_bytes(
            value for own in optimizer.state_dict()['state'].values() for value in own.values()
            if isinstance(value, torch.Tensor)
        )  # fmt: skip
    assert predict_state_bytes(optimizer) == counted <= saved
    assert planned_bytes(dict(type=f'flashoptim.{name}', **options), params) == (counted, 0)


@pytest.mark.parametrize('method', FLASH)
def test_twenty_steps_of_the_library_on_a_cpu_are_those_of_pytorch(method):
    """The library's update by PyTorch's operators, in float32; with a rate of its own for every group."""
    require(method)
    cfg = part(method).optim_wrapper
    cfg.paramwise_cfg.update(layer_decay_rate=0.7)
    model = small_classifier('vit-b16')
    plain = copy.deepcopy(model)
    ours = build_optim_wrapper(model, cfg)
    assert all(group['initial_lr'] == group['lr'] for group in ours.optimizer.param_groups)
    kind, keys = ('AdamW', ('betas', 'eps')) if method == 'flash-adamw' else ('SGD', ('momentum',))
    options = {key: cfg.optimizer[key] for key in (*keys, 'lr', 'weight_decay')}
    reference = build_optim_wrapper(plain, {**cfg, 'optimizer': dict(type=kind, **options)})
    for step in range(20):
        images, labels = batch('vit-b16', step)
        for one, optim_wrapper in ((model, ours), (plain, reference)):
            optim_wrapper.update_params(loss_of(one, images, labels))
    weights = [torch.cat([param.detach().flatten() for param in one.parameters()]) for one in (model, plain)]
    meant = has_gradient(model)
    torch.testing.assert_close(weights[0][meant], weights[1][meant], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_in_bfloat16_is_evaluated_saved_and_resumed_bit_identically(digits_root, tmp_path, monkeypatch):
    """The Runner with the network that flashoptim trains, and SGD in place of its kernels; the embedding is frozen."""
    monkeypatch.setattr('ftsgd_plugin.optim.constructor.casts_weights', lambda settings: True)

    def run(name: str, **options):
        options = {'train_cfg.max_epochs': 2, 'param_scheduler': dict(type='CosineAnnealingLR'), **options}
        cfg = load_digits_config(digits_root, 'freeze-embed', 64, work_dir=str(tmp_path / name), **options)
        cfg.launcher = 'none'
        runner = build_runner(cfg)
        runner.train()
        return runner

    whole, directory = run('whole'), tmp_path / 'whole'
    files = directory / 'previous/epoch_1.pth', directory / 'epoch_2.pth'
    first, saved = (torch.load(file, weights_only=True)['state_dict'] for file in files)
    assert len(read_record(directory).epochs) == 2
    for layer in list_layers(whole.model):
        for key in layer.params:
            assert saved[key].dtype == (torch.float32 if layer.role in ('embed', 'head') else torch.bfloat16)
            assert layer.role != 'embed' or torch.equal(saved[key], first[key])
    assert not torch.equal(saved['head.fc.weight'], first['head.fc.weight'])
    again = run('again', resume=True, load_from=str(files[0]))
    assert all(torch.equal(again.model.state_dict()[key], value) for key, value in saved.items())
    loaded = load_run(directory).model
    assert all(param.dtype == torch.float32 for param in loaded.parameters())
    assert torch.equal(loaded.state_dict()['head.fc.weight'], saved['head.fc.weight'])
