"""The loops as a base class, and a runner that only validates: as with MMEngine's own loops."""

from unittest import mock

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import LOOPS

from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.runner.loops import ResumableEpochTrainLoop, ResumableIterTrainLoop
from ftsgd_plugin.utils.errors import UserError

BATCH, PER_EPOCH = 4, 3


@LOOPS.register_module()
class OwnRunLoop(ResumableIterTrainLoop):
    """A ``run()`` as short as a user's."""

    def run(self):
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        while self._iter < self._max_iters:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model


@LOOPS.register_module()
class SkippingRunLoop(ResumableIterTrainLoop):
    """A ``run()`` that skips batches after a resume, as MMEngine's own does."""

    def run(self):
        for _ in range(self._iter):
            next(self.dataloader_iterator)
        return OwnRunLoop.run(self)


@LOOPS.register_module()
class OwnEpochLoop(ResumableEpochTrainLoop):
    """MMEngine's ``run()`` and ``run_epoch()``."""

    run, run_epoch = EpochBasedTrainLoop.run, EpochBasedTrainLoop.run_epoch


def make(digits_config, loop: str, iterations: int, **options) -> Runner:
    cfg = digits_config('freeze-embed', BATCH * PER_EPOCH, launcher='none', **options)
    cfg.train_dataloader.update(batch_size=BATCH, num_workers=0, persistent_workers=False)
    cfg.param_scheduler, cfg.val_cfg, cfg.val_dataloader, cfg.val_evaluator = [], None, None, None
    cfg.default_hooks.checkpoint = None
    cfg.custom_hooks = [dict(type='CheckpointHook', interval=1, by_epoch=False)]
    length = dict(max_epochs=iterations // PER_EPOCH) if 'Epoch' in loop else dict(max_iters=iterations)
    cfg.train_cfg = dict(type=loop, **length)
    return build_runner(cfg)


def images_seen(runner: Runner) -> list[torch.Tensor]:
    seen = []
    preprocess = runner.model.data_preprocessor.forward

    def note(data, training=False):
        seen.append(data['inputs'].clone() if isinstance(data['inputs'], torch.Tensor) else torch.stack(data['inputs']))
        return preprocess(data, training)

    with mock.patch.object(runner.model.data_preprocessor, 'forward', note):
        runner.train()
    return seen


@pytest.mark.parametrize(
    'own, ours', [('OwnRunLoop', 'ResumableIterTrainLoop'), ('OwnEpochLoop', 'ResumableEpochTrainLoop')]
)
def test_a_subclass_with_its_own_run_trains_and_resumes_as_the_loop_does(digits_config, tmp_path, own, ours):
    expected = images_seen(make(digits_config, ours, 6))
    straight = make(digits_config, own, 6, work_dir=str(tmp_path / 'own'))
    seen = images_seen(straight)
    assert len(seen) == len(expected) == 6 and all(map(torch.equal, seen, expected))
    assert not torch.equal(seen[0], seen[PER_EPOCH])  # another order in the second epoch
    resumed = make(digits_config, own, 6, resume=True, load_from=str(tmp_path / 'own/iter_4.pth'))
    assert all(map(torch.equal, images_seen(resumed), expected[4:]))
    for found, wanted in zip(resumed.model.parameters(), straight.model.parameters()):
        assert torch.equal(found, wanted)


def test_a_run_that_skips_batches_after_a_resume_is_refused_in_one_line(digits_config, tmp_path):
    make(digits_config, 'SkippingRunLoop', 4, work_dir=str(tmp_path / 'own')).train()
    resumed = make(digits_config, 'SkippingRunLoop', 6, resume=True, load_from=str(tmp_path / 'own/iter_4.pth'))
    with pytest.raises(UserError, match=r'SkippingRunLoop\.run\(\) .* do not skip batches') as caught:
        resumed.train()
    assert '\n' not in str(caught.value)


def test_validating_and_testing_alone_build_no_training_loop(digits_config):
    cfg = digits_config('freeze-embed', 8, launcher='none')
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='LayerGradNormHook'), dict(type='ResourceHook')]
    runner = build_runner(cfg)
    with mock.patch.object(Runner, 'build_train_loop', side_effect=AssertionError('the training loop was built')):
        metrics = runner.val(), runner.test()
    assert all('id/accuracy' in found for found in metrics)
    assert isinstance(runner._train_loop, dict) and isinstance(runner.optim_wrapper, dict)
