"""Features of the validation data are computed once while nothing below the head changes, and only then."""

import pytest
import torch
from mmengine.config import Config

from ftsgd_plugin.hooks import FrozenFeaturesHook
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.runner.build import build_runner


@pytest.fixture
def runner_of(digits_config, tmp_path):
    """Build a runner of the demo on few digits that counts the images of its backbone in validation."""

    def build(trained: str = 'head', limit: int | str = '1GiB', change=lambda cfg: None, **options):
        cfg = digits_config('freeze-embed', 20, launcher='none', **options)
        cfg.val_dataloader.batch_size = 8
        cfg.work_dir = str(tmp_path / f'{trained}-{limit}')
        cfg.custom_hooks = [dict(type='FrozenFeaturesHook', limit=limit)]
        change(cfg)
        runner = build_runner(cfg)
        if trained == 'head':
            names = [layer.name for layer in list_layers(runner.model) if layer.role != 'head']
            runner.optim_wrapper['paramwise_cfg'] = dict(runner.optim_wrapper.get('paramwise_cfg') or {}, freeze=names)
        runner.images = 0

        def count(inputs, *args, **kwargs):
            runner.images += 0 if runner.model.training else len(inputs)
            return forward(inputs, *args, **kwargs)

        forward = runner.model.backbone.forward
        runner.model.backbone.forward = count
        return runner

    return build


def hook_of(runner) -> FrozenFeaturesHook:
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, FrozenFeaturesHook))
    return hook


def metrics_of(runner) -> list[dict]:
    found = []
    evaluate = runner.val_loop.evaluator.evaluate

    def keep(size):
        found.append(evaluate(size))
        return found[-1]

    runner.val_loop.evaluator.evaluate = keep
    runner.train()
    return found


def test_a_probe_computes_the_features_once_and_has_the_same_numbers(runner_of):
    found = {}
    for limit in (0, '1GiB'):
        runner = runner_of(limit=limit, **{'train_cfg.max_epochs': 3})
        metrics = metrics_of(runner)
        found[limit] = metrics, runner.model.state_dict(), runner.images
        assert 'extract_feat' not in vars(runner.model) and not hook_of(runner)._features
    assert found[0][2] == 3 * found['1GiB'][2] == 3 * 40
    assert found[0][0] == found['1GiB'][0] and len(found[0][0]) == 3
    assert all(torch.equal(value, found['1GiB'][1][name]) for name, value in found[0][1].items())


def test_a_training_of_more_than_the_head_stores_nothing(runner_of):
    runner = runner_of(trained='all', **{'train_cfg.max_epochs': 2})
    runner.train()
    assert runner.images == 2 * 40 and not hook_of(runner)._said


def evaluated(runner, change=lambda: None) -> tuple[int, list[dict]]:
    """Images of the second of two passes within a training, before which something has changed; both results."""
    for parameter in runner.model.parameters():
        parameter.requires_grad_(False)
    hook_of(runner).before_train(runner)
    results = [runner.val_loop.run()]
    change()
    runner.images = 0
    results.append(runner.val_loop.run())
    return runner.images, results


def test_changed_bytes_are_noticed_however_they_were_changed(runner_of):
    runner = runner_of('none')
    assert evaluated(runner) == (0, [runner.val_loop.run()] * 2)
    weight = next(runner.model.backbone.parameters())
    assert evaluated(runner, lambda: weight.data.add_(1.0))[0] == 40  # past autograd's version counter
    assert evaluated(runner)[0] == 0
    assert evaluated(runner, lambda: weight.requires_grad_())[0] == 40
    handle = None

    def watch():
        nonlocal handle
        handle = runner.model.backbone.register_forward_hook(lambda *args: None)

    assert evaluated(runner, watch)[0] == 40
    handle.remove()
    assert evaluated(runner)[0] == 0
    hook_of(runner).after_train(runner)
    runner.val_loop.run()
    assert runner.images == 40  # outside a training


def flip(cfg: Config) -> None:
    for one in cfg.val_dataloader.dataset.datasets:
        one.pipeline.insert(1, dict(type='torchvision/RandomHorizontalFlip'))


def shuffle(cfg: Config) -> None:
    cfg.val_dataloader.sampler.shuffle = True


def without_paths(cfg: Config) -> None:
    for one in cfg.val_dataloader.dataset.datasets:
        one.pipeline[-1]['meta_keys'] = ('split', 'group')


@pytest.mark.parametrize('change', [flip, shuffle, without_paths])
def test_data_that_may_differ_is_evaluated_again(runner_of, change):
    assert evaluated(runner_of('none', change=change))[0] == 40


def test_what_does_not_fit_is_computed_again(runner_of):
    runner = runner_of('none', limit=3 * 8 * 4 * 64)
    again, results = evaluated(runner)
    assert 0 < again < 40 and results[0] == results[1]
