"""Time that ``LayerGradNormHook`` adds to a training step of a ViT, as a share of the step.

    python benchmarks/layer_grad_norms.py                                   # ViT-B/16, batch 4, a few minutes on a CPU
    python benchmarks/layer_grad_norms.py --batch 32 --steps 50             # on a GPU
    python benchmarks/layer_grad_norms.py --model vit_tiny_patch16_224 --steps 20

Random weights and images, SGD (freeze-embed). After every backward pass ``optim_wrapper.step`` is called on the same
gradients with and without the hook in turn, so that a busy moment affects both; the hook costs the median difference
of such pairs, and its share is that over the median of whole steps without it. Differences of whole steps are noise
on a shared machine. The share includes an interval's record (weight norms, fetch, file), spread over its 50 steps.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from types import SimpleNamespace

import timm
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import build_optim_wrapper
from torch.nn.functional import cross_entropy

from ftsgd_plugin.hooks import LayerGradNormHook

INTERVAL = 50  # steps that share the cost of a record
PAIRS = 6  # updates without and with the hook per backward pass


def build(model: torch.nn.Module):
    """A new optimizer wrapper: one without the hook, one with it."""
    optimizer = dict(type='SGD', lr=1e-4, momentum=0.9)
    cfg = dict(optimizer=optimizer, constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor')
    return build_optim_wrapper(model, cfg)


def measure(model: torch.nn.Module, batch: int, steps: int, device: str) -> tuple[list, list, list, float]:
    """Seconds of whole steps, of the updates in them without and with the hook, and of one record of an interval."""
    images = torch.randn(batch, 3, *model.patch_embed.img_size, device=device)
    labels = torch.randint(10, (batch,), device=device)
    plain, hooked = build(model), build(model)

    def seconds(call: Callable[[], None]) -> float:
        if device != 'cpu':
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device != 'cpu':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as directory:
        runner = SimpleNamespace(
            model=model,
            optim_wrapper=hooked,
            iter=0,
            log_dir=directory,
            visualizer=SimpleNamespace(add_scalars=lambda scalars, step: None),
            message_hub=MessageHub.get_instance('benchmark'),
        )
        hook = LayerGradNormHook()
        hook.before_train(runner)
        hook.before_train_iter(runner, 0)
        whole, without, with_hook = [], [], []
        for i in range(steps + 1):  # the first is left out: allocations, momentum
            plain.zero_grad()
            rest = seconds(lambda: cross_entropy(model(images), labels).backward())
            times = ([], [])
            for k in range(2 * PAIRS):
                side = (k + k // 2) % 2  # 0 1 1 0: neither is always first
                times[side].append(seconds((plain, hooked)[side].step))
            if i > 0:
                whole.append(rest + statistics.median(times[0]))
                without.extend(times[0])
                with_hook.extend(times[1])

        def record() -> None:
            hook.after_train(runner)
            hook.before_train_iter(runner, 0)

        return whole, without, with_hook, seconds(record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='vit_base_patch16_224', help='timm ViT (default: vit_base_patch16_224)')
    parser.add_argument('--batch', type=int, default=4, help='images per step (default: 4)')
    parser.add_argument('--steps', type=int, default=10, help='whole steps (default: 10)')
    parser.add_argument('--threads', type=int, help="torch's threads on a CPU (default: torch's own)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    MMLogger.get_instance('benchmark', log_level='ERROR')
    torch.manual_seed(0)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = timm.create_model(args.model, num_classes=10).to(device).train()
    whole, without, with_hook, record = measure(model, args.batch, args.steps, device)
    machine = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    base, update = statistics.median(whole), statistics.median(without)
    added = statistics.median(b - a for a, b in zip(without, with_hook))
    share = (added + record / INTERVAL) / base
    print(
        f'{date.today()}, {machine}, Python {platform.python_version()}, torch {torch.__version__}, '
        f'timm {timm.__version__}\n'
    )
    print('| model | batch | steps | step without hook, ms | its update, ms | hook, ms | record, ms | share |')
    print('|---|---|---|---|---|---|---|---|')
    print(
        f'| {args.model} | {args.batch} | {args.steps} | {1e3 * base:.1f} | {1e3 * update:.1f} | {1e3 * added:.1f} '
        f'| {1e3 * record:.1f} | {100 * share:.1f} % |'
    )


if __name__ == '__main__':
    main()
