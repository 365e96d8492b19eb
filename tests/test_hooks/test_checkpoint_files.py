"""SafeCheckpointHook writes the files that MMEngine's CheckpointHook writes, whatever the options."""

import itertools
import os
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import unique_name
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import BaseLoop, save_checkpoint

from ftsgd_plugin.hooks import SafeCheckpointHook
from ftsgd_plugin.utils import files

EPOCHS, PER_EPOCH = 5, 3
SCORES = {'rising': [1, 2, 3, 4, 5], 'falling': [5, 4, 3, 2, 1], 'late': [2, 1, 3, 3, 4]}


class Config:
    """The part of a config that a hook reads."""

    pretty_text = 'a = 1\n'


class Loop(BaseLoop):
    """A training loop that exists."""

    def __init__(self) -> None:
        pass

    def run(self) -> None:
        pass


class Run:
    """A runner's attributes and the order of its hook calls, without a model."""

    def __init__(self, work_dir: Path, hook: CheckpointHook) -> None:
        work_dir.mkdir(parents=True, exist_ok=True)
        self.work_dir, self.hook, self.cfg = str(work_dir), hook, Config()
        self.logger, self.message_hub = MMLogger.get_current_instance(), MessageHub.get_instance(unique_name())
        self.epoch = self.iter = 0
        self.max_epochs = self._max_epochs = EPOCHS
        self.max_iters = self._max_iters = EPOCHS * PER_EPOCH
        self.optim_wrapper = SimpleNamespace()
        self.hooks, self._train_loop = [hook], Loop()

    def save_checkpoint(
        self, out_dir, filename, file_client_args=None, meta=None, backend_args=None, **options
    ) -> None:
        # Where iterations are counted, ours is written again after the validation, when the next epoch has begun.
        meta = {key: meta[key] for key in ('epoch', 'iter') if key == 'iter' or self.hook.by_epoch}
        content = {'meta': meta, 'state_dict': {'w': torch.zeros(1)}}
        if options.get('save_optimizer', True):
            content['optimizer'] = {}
        save_checkpoint(content, os.path.join(out_dir, filename), backend_args=backend_args)

    def train(self, scores: list[float], val_interval: int):
        """Yield the files after every validation and at the end."""
        self.hook.before_train(self)
        for epoch in range(EPOCHS):
            for i in range(PER_EPOCH):
                self.hook.after_train_iter(self, i)
                self.iter += 1
            self.hook.after_train_epoch(self)
            self.epoch += 1
            if self.epoch % val_interval == 0 or self.epoch == EPOCHS:
                self.hook.after_val_epoch(self, {'acc': scores[epoch], 'loss': -scores[epoch] + epoch % 2})
                yield self.files(read=False)
        self.hook.after_train(self)
        yield self.files()

    def files(self, read: bool = True) -> dict[str, dict]:
        """Name of every checkpoint -> its position and parts, if they are read; a published one's hash is left out."""
        found = {}
        for path in Path(self.work_dir).glob('*.pth'):
            content = torch.load(path, weights_only=True) if read else {'meta': {}}
            found[re.sub(r'-[0-9a-f]{8}\.pth$', '-HASH.pth', path.name)] = {**content['meta'], 'parts': sorted(content)}
        pointer = Path(self.work_dir) / 'last_checkpoint'
        return {**found, 'last': Path(pointer.read_text()).name if pointer.exists() else None}


OPTIONS = {
    'interval': (1, 2, 4, -1),
    'by_epoch': (True, False),
    'max_keep_ckpts': (-1, 1, 2),
    'save_last': (True, False),
    'save_best': (None, 'acc', ['acc', 'loss'], 'auto'),
    'save_begin': (0, 2),
    'filename_tmpl': (None, 'step{}.pth'),
    'published_keys': (None, ['meta', 'state_dict']),
}
COMBINATIONS = list(itertools.product(*OPTIONS.values(), SCORES, (1, 2)))


def test_the_same_files_as_mmengine_writes_under_many_options(tmp_path, monkeypatch):
    """40 combinations: names, positions and parts after every validation and at the end."""
    monkeypatch.setattr(files.os, 'fsync', lambda descriptor: None)
    chosen = random.Random(0).sample(COMBINATIONS, 40)
    chosen.append((2, True, -1, True, 'acc', 0, None, None, 'rising', 1))  # the best falls between two periodic ones
    extra = 0
    for k, (*values, scores, val_interval) in enumerate(chosen):
        options = dict(zip(OPTIONS, values))
        rule = {'acc': 'greater', 'auto': 'greater', None: None}.get(str(options['save_best']), ['greater', 'less'])
        options['rule'] = None if options['save_best'] is None else rule
        runs = [
            Run(tmp_path / f'{k}{cls.__name__}', cls(**options)).train(SCORES[scores], val_interval)
            for cls in (CheckpointHook, SafeCheckpointHook)
        ]
        for expected, found in zip(*runs, strict=True):
            assert found == expected, (options, scores, val_interval)
            extra += len(found)
    assert extra > 300


def test_the_periodic_file_is_written_when_the_best_falls_on_an_epoch_without_one(tmp_path):
    for cls in (CheckpointHook, SafeCheckpointHook):
        run = Run(tmp_path / cls.__name__, cls(interval=2, save_best='acc', rule='greater'))
        *_, last = run.train(SCORES['rising'], 1)
        assert {'epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth', 'epoch_5.pth'} < last.keys()


def test_with_one_kept_the_one_before_it_stays_in_a_directory_of_its_own(tmp_path):
    run = Run(tmp_path / 'run', SafeCheckpointHook(interval=1, max_keep_ckpts=1))
    for epoch, found in enumerate(run.train(SCORES['rising'], 1), start=1):
        assert {name for name in found if name.endswith('.pth')} == {f'epoch_{min(epoch, EPOCHS)}.pth'}
        previous = {path.name for path in (tmp_path / 'run/previous').glob('*')}
        assert previous == ({f'epoch_{min(epoch, EPOCHS) - 1}.pth'} if epoch > 1 else set())
    assert torch.load(tmp_path / 'run/previous/epoch_4.pth', weights_only=True)['meta']['epoch'] == 4
    run = Run(tmp_path / 'two', SafeCheckpointHook(interval=1, max_keep_ckpts=2))
    assert len(list(run.train(SCORES['rising'], 1))) and not (tmp_path / 'two/previous').exists()


@pytest.mark.parametrize('by_epoch', [True, False])
def test_what_waits_for_its_window_is_written_when_training_stops(tmp_path, monkeypatch, by_epoch):
    is_open = {'now': True}
    monkeypatch.setattr('ftsgd_plugin.hooks.checkpoint.at_update_boundary', lambda wrapper: not is_open['now'])
    hook = SafeCheckpointHook(interval=1 if by_epoch else 2, by_epoch=by_epoch, save_last=False)
    run = Run(tmp_path / 'run', hook)
    hook.before_train(run)
    for i in range(PER_EPOCH):
        hook.after_train_iter(run, i)
        run.iter += 1
    hook.after_train_epoch(run)
    run.epoch += 1
    assert run.files() == {'last': None}
    hook.after_train(run)  # another hook has stopped the loop
    name = 'epoch_1.pth' if by_epoch else 'iter_2.pth'
    position = {'epoch': 1, 'iter': 3} if by_epoch else {'iter': 3}
    assert run.files() == {name: {**position, 'parts': ['meta', 'optimizer', 'state_dict']}, 'last': name}
    hook.after_train(run)
    assert len(run.files()) == 2


def test_directory_is_synchronised_after_the_rename(tmp_path, monkeypatch):
    """Else a power cut can lose the new name."""
    events, fsync, replace = [], os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        events.append(('sync', os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))))
        fsync(descriptor)

    def note_replace(*paths) -> None:
        replace(*paths)
        events.append(('rename', os.path.basename(paths[1])))

    monkeypatch.setattr(os, 'fsync', note_sync)
    monkeypatch.setattr(os, 'replace', note_replace)
    files.write_bytes(tmp_path / 'epoch_1.pth', b'whole')
    assert events == [('sync', '.epoch_1.pth.tmp'), ('rename', 'epoch_1.pth'), ('sync', tmp_path.name)]
