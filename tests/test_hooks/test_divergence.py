"""A run whose numbers are no longer finite stops with one line, is recorded as diverged and leaves its checkpoint."""

import math

import pytest
import torch
from helpers import ROOT
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ftsgd_plugin.hooks import DivergenceHook, LayerGradNormHook
from ftsgd_plugin.records import read_record
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import DivergedError, UserError
from ftsgd_plugin.utils.norms import has_non_finite

EPOCHS, ITERATIONS = 2, 4  # iterations per epoch
REMEDY = r'lower the learning rate \(optim_wrapper\.optimizer\.lr, now \S+\), warm it up or clip the gradients .*\.$'


@pytest.fixture
def config(digits_config, tmp_path):
    def load(method: str = 'freeze-embed', **options):
        fixed = {
            'train_cfg.max_epochs': EPOCHS,
            'train_dataloader.batch_size': 4,
            'train_dataloader.num_workers': 0,
            'launcher': 'none',
        }
        return digits_config(method, subset=4 * ITERATIONS, **fixed, **options)

    return load


class Spoil(Hook):
    """Turn a value of some iterations into NaN: 'loss', 'gradient' (of the head's bias), 'weight' or 'buffer'."""

    def __init__(self, what: str, *iterations: int) -> None:
        self.what, self.iterations = what, iterations

    def before_train(self, runner):
        self.runner, head = runner, runner.model.head
        loss, bias = head.loss, head.fc.bias

        def spoilt_loss(*args, **kwargs):
            losses = loss(*args, **kwargs)
            if self.what == 'loss' and runner.iter in self.iterations:
                losses['loss'] = losses['loss'] * math.nan
            return losses

        def spoil_gradient(grad):
            return grad * math.inf if self.what == 'gradient' and runner.iter in self.iterations else grad

        head.loss = spoilt_loss
        bias.register_hook(spoil_gradient)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.what == 'weight' and runner.iter in self.iterations:
            with torch.no_grad():
                runner.model.head.fc.weight[0, 0] = math.inf


def run(cfg, *hooks: Hook, guard: DivergenceHook | None = None) -> Runner:
    runner = build_runner(cfg)
    if guard:
        runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, DivergenceHook)]
        runner.register_hook(guard)
    for hook in hooks:
        runner.register_hook(hook, priority='NORMAL')
    runner.train()
    return runner


def finite(path) -> bool:
    return not has_non_finite(torch.load(path, weights_only=True)['state_dict'].values())


@pytest.mark.parametrize(
    'what, method, options',
    [
        ('loss', 'freeze-embed', {}),
        ('gradient', 'sgd', {'optim_wrapper.clip_grad': dict(max_norm=1.0)}),
        ('gradient', 'gradual-unfreezing', {}),
        ('gradient', 'sgd-in-backward', {}),
    ],
)
def test_the_run_stops_with_one_line_and_the_checkpoint_before_it_stays(config, tmp_path, what, method, options):
    if method == 'sgd-in-backward':
        options = {'optim_wrapper.type': 'SGDInBackwardOptimWrapper', 'optim_wrapper.optimizer.momentum': 0.0}
        method = 'freeze-embed'
    cfg = config(method, **options)
    with pytest.raises(DivergedError) as error:
        run(cfg, Spoil(what, ITERATIONS + 1))
    said = 'the loss is nan' if what == 'loss' else r'a gradient is NaN or Inf \(the loss is \d\S*\)'
    error.match(rf'^iteration {ITERATIONS + 2}: {said}, so its update was not made; the run has diverged: {REMEDY}')
    record = read_record(tmp_path / 'work')
    assert record.status == 'diverged' and record.error == str(error.value) and len(record.epochs) == 1
    assert record.finished
    checkpoints = sorted(path.name for path in (tmp_path / 'work').glob('*.pth'))
    assert checkpoints == ['best_id_accuracy_epoch_1.pth', 'epoch_1.pth']
    assert all(finite(tmp_path / 'work' / name) for name in checkpoints)


@pytest.mark.gpu
@pytest.mark.parametrize('what', ['loss', 'gradient'])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'optim_wrapper.optimizer.fused': True},
        {
            'optim_wrapper.type': 'AmpOptimWrapper',
            'optim_wrapper.dtype': 'bfloat16',
            'optim_wrapper.loss_scale': dict(enabled=False),
        },
        {'optim_wrapper.type': 'SGDInBackwardOptimWrapper', 'optim_wrapper.optimizer.momentum': 0.0},
    ],
    ids=['read by the host', 'read late', 'bfloat16', 'in backward'],
)
def test_on_a_gpu_the_run_stops_with_the_same_line(config, tmp_path, what, options):
    with pytest.raises(DivergedError, match=rf'^iteration {ITERATIONS + 2}: .*, so its update was not made; '):
        run(config('freeze-embed', **options), Spoil(what, ITERATIONS + 1))
    assert read_record(tmp_path / 'work').status == 'diverged'
    assert all(finite(path) for path in (tmp_path / 'work').glob('*.pth'))


def test_a_learning_rate_that_is_far_too_large(config, tmp_path):
    with pytest.raises(DivergedError, match=rf'the run has diverged: .*{REMEDY}'):
        run(config('sgd', **{'optim_wrapper.optimizer.lr': 1e30, 'optim_wrapper.optimizer.weight_decay': 0.1}))
    assert read_record(tmp_path / 'work').status == 'diverged'
    assert all(finite(path) for path in (tmp_path / 'work').glob('*.pth'))


@pytest.mark.parametrize(
    'iteration, by_epoch, said',
    [
        (1, True, 'iteration 3: the loss is nan, so its update was not made'),
        (ITERATIONS - 1, True, 'iteration 4: the weights are NaN or Inf in head.fc.weight'),
        (1, False, 'iteration 2: the weights are NaN or Inf in head.fc.weight'),
    ],
)
def test_no_checkpoint_of_weights_that_have_overflowed(config, tmp_path, iteration, by_epoch, said):
    """A finite update may do it; the next loss is found bad in mid-epoch, the weights before anything is saved."""
    cfg = config(**{'default_hooks.checkpoint.by_epoch': by_epoch, 'default_hooks.checkpoint.interval': 1})
    with pytest.raises(DivergedError) as error:
        run(cfg, Spoil('weight', iteration))
    assert str(error.value).startswith(f'{said}; the run has diverged: ')
    assert read_record(tmp_path / 'work').status == 'diverged'
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ([] if by_epoch else ['iter_1.pth'])
    assert all(finite(path) for path in (tmp_path / 'work').glob('*.pth'))


def test_skipped_updates_within_the_bound_leave_no_trace(config, tmp_path):
    """Weights after a run with a skipped update are finite, and the run finishes; a row of them ends it."""
    norms = LayerGradNormHook(interval=ITERATIONS)
    runner = run(config(), Spoil('loss', 1, 2, ITERATIONS), norms, guard=DivergenceHook(max_skipped=3))
    assert read_record(tmp_path / 'work').status == 'finished'
    assert not has_non_finite(runner.model.state_dict().values())
    assert 'backward' not in vars(runner.optim_wrapper)
    assert 'FiniteUpdates' not in vars(runner.optim_wrapper)['step'].__qualname__  # MMEngine's schedulers' counter
    (table,) = (tmp_path / 'work').glob('*/layer_grad_norms.csv')
    lines = [line.split(',') for line in table.read_text().splitlines()]
    assert [line[5:7] for line in lines if line[1] == 'head'] == [['2', '2'], ['3', '1']]
    assert all(math.isfinite(float(line[7])) for line in lines[1:])
    with pytest.raises(DivergedError, match='iteration 4: the loss is nan, 3 times in a row, so its update'):
        run(config(work_dir=str(tmp_path / 'row')), Spoil('loss', 1, 2, 3), guard=DivergenceHook(max_skipped=3))


def test_the_hook_of_a_config_replaces_the_default_one(config):
    cfg = config(custom_hooks=[dict(type='DivergenceHook', max_skipped=3)])
    (hook,) = [hook for hook in build_runner(cfg).hooks if isinstance(hook, DivergenceHook)]
    assert hook.max_skipped == 3
    with pytest.raises(UserError, match='DivergenceHook: max_skipped=0 is not a positive whole number'):
        DivergenceHook(max_skipped=0)


def test_weights_that_are_bad_from_the_start_are_named(config):
    class Damage(Hook):
        def before_train(self, runner):
            with torch.no_grad():
                runner.model.head.fc.bias.fill_(math.nan)

    runner = build_runner(config())
    runner.register_hook(Damage(), priority='HIGHEST')
    with pytest.raises(UserError, match=r'training starts from are NaN or Inf in head\.fc\.bias; start from other'):
        runner.train()


def test_a_scheduler_that_gives_no_rate_is_named(config):
    class Break(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.optim_wrapper.optimizer.param_groups[0]['lr'] = math.nan

    with pytest.raises(UserError, match='iteration 2: the schedulers have set the learning rate to nan'):
        run(config(), Break())


def test_scores_that_are_not_finite_are_refused_for_any_metric(config, tmp_path):
    """MMPretrain's own metric takes the highest of NaN for class 0."""
    cfg = config(custom_hooks=[], **{'default_hooks.checkpoint.save_best': None})
    cfg.val_evaluator = dict(type='Accuracy', topk=1)
    runner = build_runner(cfg)
    with torch.no_grad():
        runner.model.head.fc.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match='evaluation: scores are NaN or Inf, so there is no result'):
        runner.val()


def test_diverged_by_the_program_itself(run_tool, digits_root, tmp_path):
    """A rate that no update survives, and settings that are refused before anything is built."""
    config = ROOT / 'configs/vit-tiny_freeze-embed_digits.py'
    options = ['--work-dir', tmp_path / 'a', '--cfg-options', f'train_dataloader.dataset.data_root={digits_root}']
    options += [f'val_dataloader.dataset.datasets.{i}.data_root={digits_root}' for i in (0, 1)]
    options += [f'val_dataloader.dataset.datasets.{i}.indices=16' for i in (0, 1)]
    options += ['train_dataloader.dataset.indices=32', 'train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=1e12']
    code, errors = run_tool('train', config, *options)
    assert code == 2 and errors.splitlines()[-1].startswith('error: ') and 'has diverged' in errors.splitlines()[-1]
    assert read_record(tmp_path / 'a').status == 'diverged'
    for setting in ('optim_wrapper.optimizer.lr=nan', 'optim_wrapper.optimizer.momentum=1.0'):
        code, errors = run_tool('train', config, '--work-dir', tmp_path / 'b', *options[2:], setting)
        assert code == 2 and errors.startswith(f'error: {setting} is not'), errors
        assert not list((tmp_path / 'b').glob('*.json'))


@pytest.mark.slow  # tests/test_optim/test_finite_ranks.py shows the decision on two ranks
@pytest.mark.parametrize('method', ['freeze-embed', 'sgd-in-backward'])
def test_two_ranks_end_with_one_line(run_ranks, digits_config, tmp_path, method):
    cfg = digits_config('freeze-embed', subset=32, launcher='pytorch', **{'train_dataloader.batch_size': 4})
    cfg.optim_wrapper.optimizer.lr = 1e12
    if method == 'sgd-in-backward':
        cfg.optim_wrapper.type = 'SGDInBackwardOptimWrapper'
        cfg.optim_wrapper.optimizer.momentum = 0
    cfg.dump(tmp_path / 'config.py')
    result = run_ranks(2, 'tools/train.py', tmp_path / 'config.py', cwd=tmp_path)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert result.returncode == 2 and 'the run has diverged' in line
    assert read_record(tmp_path / 'work').status == 'diverged'
