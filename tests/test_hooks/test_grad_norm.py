"""LayerGradNormHook against norms computed parameter by parameter, in double precision."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.multiprocessing as mp
from helpers.chain import Chain
from helpers.small_models import amp_wrapper
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from ftsgd_plugin.freezing import freeze_layers, select_layers
from ftsgd_plugin.hooks import LayerGradNormHook
from ftsgd_plugin.hooks.grad_norm import COLUMNS
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.utils.errors import UserError

SGD = dict(type='SGD', lr=0.1, momentum=0.9)


class Training:
    """The part of a runner that the hook sees, around a bare loop."""

    def __init__(self, model, folder, interval=1, optimizer=SGD, optim_wrapper=None, **wrapper):
        cfg = dict(
            optimizer=dict(optimizer),
            constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
            paramwise_cfg=dict(freeze='none'),
            **wrapper,
        )
        self.model, self.optim_wrapper = model, optim_wrapper or build_optim_wrapper(model, cfg)
        self.hook, self.folder, self.iter = LayerGradNormHook(interval), folder, 0
        self.scalars, self.log_dir = [], str(folder)
        self.visualizer = SimpleNamespace(add_scalars=lambda scalars, step: self.scalars.append((step, scalars)))
        self.message_hub = MessageHub.get_instance(f'{folder}')
        self.hook.before_train(self)

    def step(self, inputs, labels, poison=False):
        self.hook.before_train_iter(self, self.iter)
        # The base class's context: autocast on a CPU knows bfloat16 only, and the scaler is what matters here.
        with OptimWrapper.optim_context(self.optim_wrapper, self.model):
            loss = cross_entropy(self.model(inputs), labels)
        self.optim_wrapper.update_params(loss * float('inf') if poison else loss)
        self.hook.after_train_iter(self, self.iter)
        self.iter += 1

    def rows(self) -> list[dict]:
        with open(self.folder / 'layer_grad_norms.csv', newline='') as file:
            return list(csv.DictReader(file))

    def norms(self) -> dict[str, float]:
        """Of the last record."""
        rows = self.rows()
        return {row['layer']: float(row['norm']) for row in rows if row['iter'] == rows[-1]['iter']}


def batches(count: int, size: int = 4):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 16, 16, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def reference(model, inputs, labels) -> dict[str, tuple[float, float, float]]:
    """Layer -> (norm, norm / sqrt(n), norm / weight norm), parameter by parameter with float64 sums."""
    model.zero_grad()
    cross_entropy(model(inputs), labels).backward()
    expected = {}
    for layer in list_layers(model):
        squares = [float((p.grad.double() ** 2).sum()) for p in layer.params.values() if p.grad is not None]
        if squares:
            norm = math.sqrt(sum(squares))
            weight = math.sqrt(sum(float((p.detach().double() ** 2).sum()) for p in layer.params.values()))
            count = sum(p.numel() for p in layer.params.values())
            expected[layer.name] = (norm, norm / math.sqrt(count), norm / weight)
    model.zero_grad()
    return expected


def measured(rows) -> dict[str, tuple[float, ...]]:
    keys = ('norm', 'norm_per_sqrt_n', 'norm_per_weight_norm')
    return {row['layer']: tuple(float(row[key]) if row[key] else math.nan for key in keys) for row in rows}


def close(found: dict, expected: dict, tolerance: float) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=tolerance), name


def amp_training(model, folder, optimizer=SGD, **options) -> Training:
    with amp_wrapper():
        return Training(model, folder, optimizer=optimizer, type='AmpOptimWrapper', dtype='float32', **options)


def random_tokens(model):
    """MMPretrain's class token starts at zero, which has no norm to divide by."""
    nn.init.normal_(model.backbone.cls_token, std=0.02)
    return model.train()


@pytest.fixture
def model(vit):
    return random_tokens(vit(pre_norm=True))


def test_equals_the_reference_at_every_update(model, tmp_path):
    training = Training(model, tmp_path)
    for inputs, labels in batches(3):
        expected = reference(model, inputs, labels)
        training.step(inputs, labels)
        close(measured(training.rows()[-len(expected) :]), expected, 1e-6)
    assert len(expected) == 14


def test_large_tensors_are_summed_precisely(tmp_path):
    """Torch's own norm of a float32 tensor of this size is 4e-5 off on a CPU."""
    wide = Chain()
    wide.blocks[0] = nn.Linear(1500, 1500)
    training = Training(wide, tmp_path)
    training.hook.before_train_iter(training, 0)
    for param in wide.parameters():
        param.grad = torch.randn_like(param)
    expected = math.hypot(*(float(p.grad.double().norm()) for p in wide.blocks[0].parameters()))
    training.optim_wrapper.step()
    training.hook.after_train_iter(training, 0)
    assert training.norms()['blocks.0'] == pytest.approx(expected, rel=1e-6)


def test_an_interval_is_the_mean_over_its_updates_and_the_rest_is_recorded_at_the_end(model, tmp_path):
    training, expected = Training(model, tmp_path, interval=3), []
    for inputs, labels in batches(5):
        expected.append(reference(model, inputs, labels))
        training.step(inputs, labels)
    training.hook.after_train(training)
    rows = training.rows()
    assert [(row['iter'], row['updates']) for row in rows[::14]] == [('3', '3'), ('5', '2')]
    for found, part in ((rows[:14], expected[:3]), (rows[14:], expected[3:])):
        for row in found:
            mean = sum(values[row['layer']][0] for values in part) / len(part)
            assert float(row['norm']) == pytest.approx(mean, rel=1e-6)


def test_same_under_a_loss_scale(model, tmp_path):
    training = amp_training(model, tmp_path, loss_scale=65536.0)
    for inputs, labels in batches(2):
        expected = reference(model, inputs, labels)
        training.step(inputs, labels)
        close(measured(training.rows()[-14:]), expected, 1e-6)


def test_a_step_that_the_loss_scaler_skips_is_no_update(model, tmp_path):
    training = amp_training(model, tmp_path, interval=3, loss_scale=dict(init_scale=1024.0))
    expected = []
    for i, (inputs, labels) in enumerate(batches(3)):
        if i != 1:
            expected.append(reference(model, inputs, labels)['head'][0])
        training.step(inputs, labels, poison=i == 1)
    head = training.rows()[-1]
    assert (head['layer'], head['updates'], head['skipped']) == ('head', '2', '1')
    assert float(head['norm']) == pytest.approx(sum(expected) / 2, rel=1e-6)
    assert training.message_hub.get_scalar('train/grad/skipped').current() == 1


def test_an_interval_of_skipped_steps_has_no_norm(model, tmp_path):
    training = amp_training(model, tmp_path, loss_scale=dict(init_scale=1024.0))
    training.step(*batches(1)[0], poison=True)
    head = training.rows()[-1]
    assert (head['updates'], head['skipped'], head['norm']) == ('0', '1', '')
    assert training.scalars == [(1, {})]


def test_a_fused_optimizer_that_skips_on_the_device(model, tmp_path):
    training = amp_training(model, tmp_path, dict(SGD, fused=True), interval=2, loss_scale=dict(init_scale=1024.0))
    data = batches(2)
    expected = reference(model, *data[0])['head'][0]
    training.step(*data[0])
    training.step(*data[1], poison=True)
    head = training.rows()[-1]
    assert (head['updates'], head['skipped']) == ('1', '1')
    assert float(head['norm']) == pytest.approx(expected, rel=1e-6)


def test_accumulation_equals_one_large_batch(vit, tmp_path):
    data = batches(4)
    accumulating = Training(random_tokens(vit()), tmp_path, interval=4, accumulative_counts=4)
    expected = reference(accumulating.model, *(torch.cat(part) for part in zip(*data)))
    for inputs, labels in data:
        accumulating.step(inputs, labels)
    assert {row['updates'] for row in accumulating.rows()} == {'1'}
    close(measured(accumulating.rows()), expected, 1e-5)


@pytest.mark.parametrize('clip', [dict(max_norm=1e-3), dict(type='value', clip_value=1e-4)], ids=['norm', 'value'])
@pytest.mark.parametrize('amp', [False, True], ids=['fp32', 'amp'])
def test_clipping_comes_after(model, tmp_path, clip, amp):
    build = amp_training if amp else Training
    training = build(model, tmp_path, clip_grad=dict(clip))
    inputs, labels = batches(1)[0]
    expected = reference(model, inputs, labels)
    training.step(inputs, labels)
    close(measured(training.rows()), expected, 1e-6)


def test_layers_are_absent_while_frozen(model, tmp_path):
    training, layers = Training(model, tmp_path, interval=4), list_layers(model)
    assert [layer.name for layer in layers][:2] == ['patch_embed', 'ln_pre']
    for i, (inputs, labels) in enumerate(batches(8)):
        if i in (0, 2, 4):  # two updates with the head alone, two with all, then the embedding closes
            freeze = {0: ['[!h]*'], 2: 'none', 4: 'embed'}[i]
            freeze_layers(model, select_layers(layers, freeze))
        training.step(inputs, labels)
    rows = training.rows()
    first, second = ([row for row in rows if row['iter'] == step] for step in ('4', '8'))
    assert {row['layer']: row['updates'] for row in first} == {
        layer.name: '4' if layer.name == 'head' else '2' for layer in layers
    }
    assert [row['layer'] for row in second] == [layer.name for layer in layers[2:]]
    assert 'train/grad/embed' not in training.message_hub.log_scalars
    assert 'train/grad/head' in training.message_hub.log_scalars


def test_the_log_gets_the_papers_three_parts(model, tmp_path):
    training = Training(model, tmp_path)
    training.step(*batches(1)[0])
    norms = training.norms()
    logged = {key: buffer.current() for key, buffer in training.message_hub.log_scalars.items()}
    middle = [norm for name, norm in norms.items() if name.startswith(('blocks', 'post')) and name != 'blocks.0.norm1']
    assert logged == pytest.approx(
        {
            'train/grad/embed': math.hypot(norms['patch_embed'], norms['ln_pre']),
            'train/grad/middle': max(middle),
            'train/grad/head': norms['head'],
        },
        rel=1e-6,
    )


def test_zero_weights_have_no_relative_norm(vit, tmp_path):
    training = Training(vit().train(), tmp_path)
    training.step(*batches(1)[0])
    token = next(row for row in training.rows() if row['layer'] == 'cls_token')
    assert token['norm_per_weight_norm'] == '' and float(token['norm']) > 0
    assert 'norm_per_weight_norm/cls_token' not in training.scalars[0][1]


class InBackward:
    """The contract of wrappers that update during the backward pass, with a plain SGD of its own."""

    def __init__(self, model, lr=0.1):
        self.model, self.lr, self.callbacks = model, lr, []
        for param in model.parameters():
            param.register_post_accumulate_grad_hook(self._update)

    def observe_gradients(self, callback):
        self.callbacks.append(callback)

    def _update(self, param):
        for callback in self.callbacks:
            callback(param, param.grad)
        with torch.no_grad():
            param.add_(param.grad, alpha=-self.lr)
        param.grad = None

    def update_params(self, loss):
        loss.backward()

    def should_sync(self):
        return True


def test_updates_in_the_backward_pass(model, vit, tmp_path):
    (tmp_path / 'plain').mkdir()
    plain = Training(random_tokens(vit(pre_norm=True)), tmp_path / 'plain', optimizer=dict(type='SGD', lr=0.1))
    plain.model.load_state_dict(model.state_dict())
    training = Training(model, tmp_path, interval=2, optim_wrapper=InBackward(model))
    for inputs, labels in batches(4):
        plain.step(inputs, labels)
        training.step(inputs, labels)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.model.parameters()))
    for row in training.rows():
        same = [float(r['norm']) for r in plain.rows() if r['layer'] == row['layer']]
        steps = same[:2] if row['iter'] == '2' else same[2:]
        assert float(row['norm']) == pytest.approx(sum(steps) / 2, rel=1e-6) and row['updates'] == '2'


class NoSync(TorchDispatchMode):
    """Refuse operations that wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, 'a value was fetched'
        return func(*args, **(kwargs or {}))


def _refuse(*args, **kwargs):
    raise AssertionError('a value was fetched')


@pytest.mark.parametrize('in_backward', [False, True], ids=['step', 'in-backward'])
def test_nothing_is_fetched_between_records(model, tmp_path, in_backward):
    training = Training(model, tmp_path, interval=4, optim_wrapper=InBackward(model) if in_backward else None)
    data = batches(4)
    fetching = dict.fromkeys(('item', 'cpu', 'tolist', 'numpy', '__float__', '__bool__', '__int__'), _refuse)
    with mock.patch.multiple(torch.Tensor, **fetching), NoSync():
        for inputs, labels in data[:3]:
            training.step(inputs, labels)
        with pytest.raises(AssertionError, match='a value was fetched'):
            training.step(*data[3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='synchronisation is a matter of GPUs')
def test_no_synchronisation_on_a_gpu(vit, tmp_path):
    training = Training(random_tokens(vit()).cuda(), tmp_path, interval=4)
    data = [(inputs.cuda(), labels.cuda()) for inputs, labels in batches(4)]
    training.step(*data[0])  # allocations and first uses
    torch.cuda.set_sync_debug_mode('error')
    try:
        for inputs, labels in data[1:3]:
            training.step(inputs, labels)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    training.step(*data[3])
    assert {row['updates'] for row in training.rows()} == {'4'}


def chain_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 8, generator=generator), torch.randint(3, (8,), generator=generator)


def train_chain(model, folder, rank: int, world: int, accumulate: int) -> Training:
    training = Training(model, folder, interval=4, accumulative_counts=accumulate)
    training.optim_wrapper.initialize_count_status(model, 0, 8)
    layers = list_layers(model)
    for step in range(8):
        if step % 4 == 0:
            freeze_layers(model, select_layers(layers, 'embed' if step == 0 else 'none'))
        training.step(*(part[rank::world] for part in chain_batch(step)))
    return training


def _worker(rank: int, folder) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    for accumulate in (1, 2):
        out = folder / f'two{accumulate}'
        out.mkdir(exist_ok=True)
        model = MMDistributedDataParallel(Chain(), device_ids=None, broadcast_buffers=False)
        train_chain(model, out, rank, 2, accumulate)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    mp.spawn(_worker, (tmp_path,), nprocs=2)
    for accumulate in (1, 2):
        out = tmp_path / f'one{accumulate}'
        out.mkdir()
        alone = train_chain(Chain(), out, 0, 1, accumulate).rows()
        with open(tmp_path / f'two{accumulate}/layer_grad_norms.csv', newline='') as file:
            together = list(csv.DictReader(file))
        assert [(row['iter'], row['layer'], row['updates']) for row in together] == [
            (row['iter'], row['layer'], row['updates']) for row in alone
        ]
        frozen = ['blocks.0', 'blocks.1', 'head']
        assert [row['layer'] for row in alone] == [*frozen, 'stem', *frozen]
        for row, expected in zip(together, alone):
            close(measured([row]), measured([expected]), 1e-5)


def test_an_ordinary_run_and_its_resumption(digits_config):
    hooks = [dict(type='LayerGradNormHook', interval=4)]
    options = {'train_cfg.max_epochs': 2, 'custom_hooks': hooks, 'default_hooks.logger.interval': 4}
    runner = Runner.from_cfg(digits_config(subset=160, **options))
    runner.train()
    with open(f'{runner.log_dir}/layer_grad_norms.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    layers = [layer.name for layer in list_layers(runner.model) if layer.role != 'embed']
    assert [row['layer'] for row in rows] == layers * 3  # after 4, 8 and 10 iterations
    assert [row['iter'] for row in rows[:: len(layers)]] == ['4', '8', '10']
    with open(f'{runner.log_dir}/vis_data/scalars.json') as file:
        lines = [json.loads(line) for line in file]
    ours = [line for line in lines if 'norm/head' in line]
    assert [line['step'] for line in ours] == [4, 8, 10]
    assert ours[0]['norm_per_sqrt_n/blocks.0.attn'] == pytest.approx(
        next(float(row['norm_per_sqrt_n']) for row in rows if row['layer'] == 'blocks.0.attn'), rel=1e-6
    )
    (text,) = Path(runner.log_dir).glob('*.log')
    log = next(line for line in text.read_text().splitlines() if 'Epoch(train)' in line)
    assert 'grad/middle: ' in log and 'grad/head: ' in log and 'grad/embed' not in log
    assert len(log) < 260

    cfg = digits_config(subset=160, **{**options, 'train_cfg.max_epochs': 3}, resume=True)
    again = Runner.from_cfg(cfg)
    again.train()
    assert again.log_dir != runner.log_dir
    with open(f'{again.log_dir}/layer_grad_norms.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['iter'], row['updates']) for row in rows[:: len(layers)]] == [('12', '2'), ('15', '3')]


def test_training_is_not_changed(vit):
    """Bit by bit, with the hook and without."""
    weights = []
    for hooked in (True, False):
        model = random_tokens(vit(seed=3))
        optim_wrapper = build_optim_wrapper(model, dict(optimizer=dict(SGD)))
        if hooked:
            hook, runner = LayerGradNormHook(50), SimpleNamespace(model=model, optim_wrapper=optim_wrapper, iter=0)
            hook.before_train(runner)
            hook.before_train_iter(runner, 0)
        for inputs, labels in batches(3):
            optim_wrapper.update_params(cross_entropy(model(inputs), labels))
        weights.append([param.clone() for param in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*weights))


@pytest.mark.parametrize('interval', [0, -1, 2.5, True, '50'])
def test_interval_must_be_a_positive_whole_number(interval):
    with pytest.raises(UserError, match=r'interval=.* is not a positive whole number of iterations'):
        LayerGradNormHook(interval)


def test_several_optimizers_are_refused(vit):
    runner = SimpleNamespace(model=vit(), optim_wrapper=SimpleNamespace(optim_wrappers={}))
    with pytest.raises(UserError, match='one optimizer only'):
        LayerGradNormHook().before_train(runner)
