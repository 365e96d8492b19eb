"""What the CPU tests show, on an NVIDIA GPU: bf16 autocast, in-backward bits, gradual phases and their memory."""

from itertools import pairwise

import pytest
import torch
from helpers.small_models import SMALL, batch, expected_names, loss_of, small_classifier, trained
from mmengine.optim import build_optim_wrapper

from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.runner.build import build_runner

pytestmark = pytest.mark.gpu


def build(model, wrapper: str, **options):
    cfg = dict(
        type=wrapper,
        optimizer=dict(type='SGD', lr=1e-3, weight_decay=0.1),
        constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
        **options,
    )
    return build_optim_wrapper(model, cfg)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('autocast', [False, True])
def test_in_backward_is_bit_equal_to_sgd(name, autocast):
    models = [small_classifier(name).cuda() for _ in range(2)]
    wrappers = [
        build(models[0], 'SGDInBackwardOptimWrapper', dtype='bfloat16' if autocast else None),
        build(models[1], 'OptimWrapper'),
    ]
    torch.use_deterministic_algorithms(True, warn_only=True)
    for step in range(20):
        images, labels = (part.cuda() for part in batch(name, step))
        for model, optim_wrapper in zip(models, wrappers):
            with torch.autocast('cuda', torch.bfloat16, enabled=autocast):
                loss = loss_of(model, images, labels)
            optim_wrapper.update_params(loss)
    torch.use_deterministic_algorithms(False)
    for ours, reference in zip(*(model.parameters() for model in models)):
        assert torch.equal(ours, reference)


def test_jpegs_are_decoded_by_nvjpeg_and_near_those_of_pillow(tmp_path):
    """``tests/test_models/test_decoding_preprocessor.py`` has the twin on the CPU."""
    import numpy as np
    from mmpretrain.registry import MODELS
    from PIL import Image

    coarse = np.random.RandomState(0).randint(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((300, 200), Image.Resampling.BICUBIC)
    image.save(tmp_path / 'a.jpg', quality=90)
    image.save(tmp_path / 'a.png')
    encoded = [
        torch.frombuffer(bytearray((tmp_path / name).read_bytes()), dtype=torch.uint8) for name in ('a.jpg', 'a.png')
    ]
    preprocessor = MODELS.build(dict(type='mmpretrain.DecodingPreprocessor', to_rgb=True)).cuda()
    found = preprocessor(dict(inputs=encoded))['inputs']
    assert found.is_cuda
    expected = [torch.from_numpy(np.array(Image.open(tmp_path / name))).permute(2, 0, 1) for name in ('a.jpg', 'a.png')]
    assert torch.equal(found[1].cpu(), expected[1].float())
    difference = (found[0].cpu() - expected[0]).abs()
    print(f'nvJPEG against Pillow: mean {difference.mean():.3f}, largest {difference.max():.0f} of 255')
    assert difference.mean() < 4


@pytest.mark.parametrize('name', SMALL)
def test_gradual_phases_open_what_they_should_and_use_less_memory(name):
    model = small_classifier(name).cuda()
    optim_wrapper = build(model, 'OptimWrapper')
    blocks = SMALL[name][1]
    scheduler = GradualUnfreezingLR(optim_wrapper, end=blocks + 1)
    held = []  # bytes that the forward pass keeps for the backward pass; the peak of so small a model is workspaces
    with torch.no_grad():
        loss_of(model, *(part.cuda() for part in batch(name, 0, size=64)))  # the libraries' lasting allocations
    for opened in range(blocks + 1):
        assert trained(model) == expected_names(model, opened)
        images, labels = (part.cuda() for part in batch(name, opened, size=64))
        before = torch.cuda.memory_allocated()
        with torch.autocast('cuda', torch.bfloat16):
            loss = loss_of(model, images, labels)
        held.append(torch.cuda.memory_allocated() - before)
        optim_wrapper.update_params(loss)
        scheduler.step()
    assert held[0] < held[-1] and all(later >= earlier for earlier, later in pairwise(held))


@pytest.mark.parametrize('method', ['flash-adamw', 'flash-sgd'])
def test_flashoptim_trains_in_the_bytes_that_are_planned_and_resumes(method):
    """``tests/test_optim/test_flash.py`` has what a CPU can show."""
    pytest.importorskip('flashoptim')
    from ftsgd_plugin.optim.state import optimizer_state_bytes, predict_state_bytes
    from ftsgd_plugin.profiling.phases import load_method

    cfg = load_method(method).optim_wrapper
    models = [small_classifier('vit-b16').cuda() for _ in range(2)]
    whole, resumed = (build_optim_wrapper(model, cfg) for model in models)
    assert {param.dtype for param in models[0].parameters()} == {torch.bfloat16, torch.float32}

    def train(model, optim_wrapper, steps) -> list[float]:
        losses = []
        for step in steps:
            loss = loss_of(model, *(part.cuda() for part in batch('vit-b16', step % 2, size=16)))
            optim_wrapper.update_params(loss)
            losses.append(loss.item())
        return losses

    for optim_wrapper in (whole, resumed):
        for group in optim_wrapper.optimizer.param_groups:
            group['lr'] *= 100
    losses = train(models[0], whole, range(20))
    assert losses[-1] < losses[0]
    assert optimizer_state_bytes(whole.optimizer) == predict_state_bytes(whole.optimizer)
    models[1].load_state_dict(models[0].state_dict())
    resumed.load_state_dict(whole.state_dict())
    assert train(models[0], whole, range(4)) == train(models[1], resumed, range(4))


def test_a_step_with_all_default_hooks_makes_the_host_wait_for_nothing(digits_config):
    """``tests/test_runner/test_unwaited.py`` has the twin on the CPU, which counts the operators that would wait."""
    cfg = digits_config(subset=160, train_cfg=dict(max_epochs=1), launcher='none')
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    cfg.train_dataloader.update(collate_fn=dict(type='default_collate'), pin_memory=True)
    runner, watched = build_runner(cfg), []
    run_iter = runner.train_loop.run_iter

    def watch(idx: int, data_batch: dict) -> None:
        # The first step starts libraries, the last one writes the log.
        inside = 0 < idx < len(runner.train_dataloader) - 1
        torch.cuda.set_sync_debug_mode('error' if inside else 'default')
        try:
            run_iter(idx, data_batch)
        finally:
            torch.cuda.set_sync_debug_mode('default')
        watched.append(inside)

    runner.train_loop.run_iter = watch
    runner.train()
    assert sum(watched) == 3
    loss = next(runner.model.parameters()).sum()
    torch.cuda.set_sync_debug_mode('error')
    try:
        with pytest.raises(RuntimeError, match='synchronizing'):
            float(loss)  # the mode notices who waits
    finally:
        torch.cuda.set_sync_debug_mode('default')
