"""SafeCheckpointHook: after a kill, a full disk or accumulation every checkpoint is complete and resumes exactly."""

import contextlib
import errno
import os
import re
import signal
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import mmengine.runner.runner
import pytest
import torch
from helpers.digits import load_digits_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmpretrain.registry import METRICS
from yapf.yapflib.yapf_api import FormatCode

from ftsgd_plugin.checkpoint.io import latest_checkpoint
from ftsgd_plugin.evaluation import GroupAccuracy
from ftsgd_plugin.hooks import SafeCheckpointHook
from ftsgd_plugin.hooks.checkpoint import ATOMIC, AtomicLocalBackend
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError

SUBSET = 96  # three iterations an epoch
# At this rate the ID accuracy rises in the second epoch, so that there are two best checkpoints.
OPTIONS = {'train_cfg.max_epochs': 2, 'optim_wrapper.optimizer.lr': 1e-3}


def load(path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=True)


def names(directory, pattern: str) -> set[str]:
    return {path.name for path in Path(directory).glob(pattern)}


def assert_same_tensors(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.fixture(scope='module')
def straight(digits_root, tmp_path_factory):
    """The last checkpoint of two epochs without an interruption."""
    directory = tmp_path_factory.mktemp('straight')
    options = {'launcher': 'none', 'work_dir': str(directory), **OPTIONS}
    build_runner(load_digits_config(digits_root, 'freeze-embed', SUBSET, **options)).train()
    assert names(directory, 'best_*') == {'best_id_accuracy_epoch_2.pth'}
    return load(directory / 'epoch_2.pth')


@pytest.mark.parametrize(
    'moment, name, nth, left',
    [
        ('half', 'epoch_2.pth', 1, {'epoch_1.pth', 'best_id_accuracy_epoch_1.pth'}),
        pytest.param(
            'moved',
            'epoch_2.pth',
            1,
            {'epoch_1.pth', 'epoch_2.pth', 'best_id_accuracy_epoch_1.pth'},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'removing',
            'epoch_1.pth',
            1,
            {'epoch_1.pth', 'epoch_2.pth', 'best_id_accuracy_epoch_1.pth'},
            marks=pytest.mark.slow,
        ),
        ('half', 'best_id_accuracy_epoch_2.pth', 1, {'epoch_2.pth', 'best_id_accuracy_epoch_1.pth'}),
        pytest.param('half', 'epoch_2.pth', 2, {'epoch_2.pth', 'best_id_accuracy_epoch_2.pth'}, marks=pytest.mark.slow),
    ],
    ids=['last half written', 'last moved', 'earlier removed', 'best half written', 'last half written again'],
)
def test_kill_leaves_complete_checkpoints_and_resuming_equals_no_kill(
    straight, digits_config, tmp_path, run_forked, run_tool, moment, name, nth, left
):
    cfg = digits_config('freeze-embed', SUBSET, **OPTIONS)
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 1
    config, work_dir = tmp_path / 'config.py', tmp_path / 'work'
    cfg.dump(config)
    script = 'tests/helpers/train_and_die.py'
    threads = str(torch.get_num_threads())  # sums depend on it
    killed = run_forked(script, moment, name, nth, config, cwd=tmp_path, OMP_NUM_THREADS=threads)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert names(work_dir, '*.pth') == left
    for file in left:
        assert load(work_dir / file)['state_dict'].keys() == straight['state_dict'].keys()
    assert 'optimizer' in load(latest_checkpoint(str(work_dir)))

    code, err = run_tool('train', config, '--resume')
    assert code == 0, err
    assert names(work_dir, '*.pth') == {'epoch_2.pth', 'best_id_accuracy_epoch_2.pth'}
    assert not names(work_dir, '.*')
    found = load(latest_checkpoint(str(work_dir)))
    assert_same_tensors(found['state_dict'], straight['state_dict'])
    assert all(found['meta'][key] == straight['meta'][key] for key in ('epoch', 'iter'))
    best = [checkpoint['message_hub']['runtime_info']['best_score'] for checkpoint in (found, straight)]
    assert best[0] == best[1]


def fill_disk(monkeypatch, moment: str) -> None:
    """Leave no room for checkpoints: a disk raises when written to, or (delayed allocation) when flushed."""

    def no_space(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_bytes(path, data):
        full = '.pth' in path.name
        write(path, data[:3] if full else data)
        if full:
            no_space()

    def save(checkpoint, file):
        file.write(b'the')
        no_space()

    write = Path.write_bytes
    if moment == 'write':
        monkeypatch.setattr(Path, 'write_bytes', write_bytes)
        monkeypatch.setattr(torch, 'save', save)
    else:
        monkeypatch.setattr(os, 'fsync', no_space)


@pytest.mark.parametrize('moment', ['write', 'fsync'])
def test_full_disk_is_one_line_and_the_earlier_file_stays(tmp_path, monkeypatch, moment):
    backend = AtomicLocalBackend()
    backend.put(b'earlier', tmp_path / 'runs/epoch_1.pth')
    fill_disk(monkeypatch, moment)
    with pytest.raises(UserError, match=r'runs/epoch_1\.pth: cannot be written \(No space left on device\)') as caught:
        backend.put(b'later', tmp_path / 'runs/epoch_1.pth')
    assert '\n' not in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / 'runs').iterdir()} == {'epoch_1.pth': b'earlier'}


def test_a_checkpoint_goes_to_its_file_without_a_copy_in_memory(tmp_path):
    content = {'state_dict': {'w': torch.arange(2**18, dtype=torch.float32)}, 'meta': {'epoch': 1}}  # 1 MiB
    hook, runner = SafeCheckpointHook(), SimpleNamespace(cfg=Config(dict(a=1)))
    peaks = []
    for name, saving in (('theirs', contextlib.nullcontext()), ('ours', hook.cheap_saving(runner))):
        with saving:
            tracemalloc.start()
            mmengine.runner.runner.save_checkpoint(content, str(tmp_path / name), backend_args=ATOMIC)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert (tmp_path / 'ours').read_bytes() == (tmp_path / 'theirs').read_bytes()
    assert peaks[0] > 2**20 > 4 * peaks[1]
    assert mmengine.runner.runner.save_checkpoint is mmengine.runner.save_checkpoint


def test_training_on_a_full_disk_ends_with_that_line(digits_config, tmp_path, run_tool, monkeypatch):
    digits_config('freeze-embed', 32).dump(tmp_path / 'config.py')
    fill_disk(monkeypatch, 'write')
    code, err = run_tool('train', tmp_path / 'config.py')
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert code == 2 and len(lines) == 1 and 'work/epoch_1.pth: cannot be written (No space left' in lines[0]
    assert 'Traceback' not in err
    assert not names(tmp_path / 'work', '*.pth') and not names(tmp_path / 'work', '.*')


class Weights(Hook):
    """Keeps the weights after every iteration."""

    def __init__(self):
        self.after = {}

    def after_train_iter(self, runner, *args, **kwargs):
        self.after[runner.iter + 1] = {name: value.clone() for name, value in runner.model.state_dict().items()}


@pytest.mark.parametrize('by_epoch', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_checkpoint_due_within_an_accumulation_window_waits_for_its_update(digits_config, tmp_path, by_epoch):
    """Three iterations an epoch, updates after every second: what is due at the third is written after the fourth."""
    options = {'launcher': 'none', 'optim_wrapper.accumulative_counts': 2, 'train_cfg.max_epochs': 4}
    options['default_hooks.checkpoint.max_keep_ckpts'] = -1
    if not by_epoch:
        options.update({'default_hooks.checkpoint.interval': 3, 'default_hooks.checkpoint.by_epoch': False})

    def train(directory, **more):
        cfg = digits_config('freeze-embed', SUBSET, work_dir=str(tmp_path / directory), **options, **more)
        runner, weights = build_runner(cfg), Weights()
        runner.register_hook(weights)
        runner.train()
        return weights.after

    after = train('a')
    template, steps = ('epoch_{}.pth', (1, 2, 3, 4)) if by_epoch else ('iter_{}.pth', (3, 6, 9, 12))
    assert names(tmp_path / 'a', '[ei]*.pth') == {template.format(step) for step in steps}
    for step, iteration, epoch in zip(steps, (4, 6, 10, 12), (1, 2, 3, 4)):
        checkpoint = load(tmp_path / 'a' / template.format(step))
        assert checkpoint['meta']['iter'] == iteration
        if by_epoch:
            assert checkpoint['meta']['epoch'] == epoch
        assert_same_tensors(checkpoint['state_dict'], after[iteration])

    resumed = train('b', resume=True, load_from=str(tmp_path / 'a' / template.format(steps[0])))
    assert sorted(resumed) == list(range(5, 13))
    assert_same_tensors(resumed[12], after[12])


@METRICS.register_module()
class Rising(GroupAccuracy):
    """The first evaluation scores 1, the second 2, ..."""

    evaluations = 0

    def compute_metrics(self, results):
        self.evaluations += 1
        return {'id/accuracy': float(self.evaluations)}


@pytest.fixture
def events(monkeypatch, tmp_path):
    """Writes and removals of checkpoints, in order, each with the checkpoints that exist afterwards."""
    found = []

    def note(function, verb):
        def noted(*paths):
            function(*paths)
            if str(paths[-1]).endswith('.pth'):
                found.append((verb, Path(paths[-1]).name, names(tmp_path / 'work', '*.pth')))

        monkeypatch.setattr(os, function.__name__, noted)

    note(os.replace, 'wrote')
    note(os.remove, 'removed')
    return found


@pytest.fixture
def rising_run(digits_config, events):
    """Four epochs, each with a better score, two checkpoints kept."""
    options = {
        'train_cfg.max_epochs': 4,
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'launcher': 'none',
        'val_evaluator.type': 'Rising',
    }
    runner = build_runner(digits_config('freeze-embed', 32, **options))
    runner.train()
    return runner.work_dir


def test_checkpoint_is_written_again_after_its_validation_with_the_best_score(rising_run, events):
    written = [name for verb, name, _ in events if verb == 'wrote']
    assert written == [
        name for k in range(1, 5) for name in (f'epoch_{k}.pth', f'best_id_accuracy_epoch_{k}.pth', f'epoch_{k}.pth')
    ]
    for epoch in (3, 4):
        info = load(f'{rising_run}/epoch_{epoch}.pth')['message_hub']['runtime_info']
        assert info['best_score'] == epoch and info['best_ckpt'].endswith(f'best_id_accuracy_epoch_{epoch}.pth')


def test_max_keep_ckpts_is_honoured_and_nothing_is_removed_before_its_successor_exists(rising_run, events):
    assert names(rising_run, '*.pth') == {'epoch_3.pth', 'epoch_4.pth', 'best_id_accuracy_epoch_4.pth'}
    present = [sorted(int(found[1]) for name in there if (found := re.fullmatch(r'epoch_(\d)\.pth', name)))
               for _, _, there in events]  # fmt: skip
    assert max(map(len, present)) == 3 and all(len(steps) >= 2 for steps in present if steps[-1] >= 2)
    for verb, name, there in events:
        if verb == 'removed':
            kind, epoch = re.fullmatch(r'(.*epoch_)(\d)\.pth', name).groups()
            successor = int(epoch) + (1 if kind.startswith('best') else 2)
            assert f'{kind}{successor}.pth' in there
    assert sum(verb == 'removed' for verb, _, _ in events) == 2 + 3


def test_config_is_formatted_once_for_any_number_of_checkpoints(digits_config):
    """MMEngine formats the config by yapf at every checkpoint, which takes a fifth of a second."""
    formatted = []
    for epochs in (1, 3):
        runner = build_runner(digits_config('freeze-embed', 32, launcher='none', **{'train_cfg.max_epochs': epochs}))
        with mock.patch('mmengine.config.config.FormatCode', wraps=FormatCode) as format_code:
            runner.train()
            formatted.append(format_code.call_count)
            saved = load(Path(runner.work_dir) / f'epoch_{epochs}.pth')['meta']['cfg']
            assert saved == runner.cfg.pretty_text
    assert isinstance(type(runner.cfg).pretty_text, property)  # as MMEngine defines it
    assert formatted[0] == formatted[1]
