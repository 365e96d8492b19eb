"""What ``LayerGradNormHook`` adds to a training step of a ViT, as a share of the step.

    python benchmarks/layer_grad_norms.py                                   # ViT-B/16, batch 4, a few minutes on a CPU
    python benchmarks/layer_grad_norms.py --batch 32 --pairs 200            # on a GPU
    python benchmarks/layer_grad_norms.py --model vit_tiny_patch16_224 --pairs 50

Random weights and pictures, SGD (freeze-embed). Steps with and without the hook take turns in one process, so that a
busy moment hits both alike; the medians of all steps, and of the differences within a pair, are printed as Markdown.
The share includes an interval's record (weight norms, fetch, file), spread over its 50 steps.
"""

import argparse
import platform
import statistics
import tempfile
import time
from datetime import date
from types import SimpleNamespace

import timm
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import build_optim_wrapper
from torch.nn.functional import cross_entropy

from ftsgd_plugin.hooks import LayerGradNormHook

INTERVAL = 50  # steps that share the cost of a record


def build(model: torch.nn.Module):
    """An optimizer wrapper of its own for each side."""
    optimizer = dict(type='SGD', lr=1e-4, momentum=0.9)
    cfg = dict(optimizer=optimizer, constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor')
    return build_optim_wrapper(model, cfg)


def measure(model: torch.nn.Module, batch: int, pairs: int, warm_up: int, device: str) -> tuple[list, list, float]:
    """Seconds of the steps without and with the hook, and seconds of one record of an interval."""
    size = model.patch_embed.img_size
    images = torch.randn(batch, 3, *size, device=device)
    labels = torch.randint(10, (batch,), device=device)
    plain, hooked = build(model), build(model)
    with tempfile.TemporaryDirectory() as folder:
        runner = SimpleNamespace(
            model=model,
            optim_wrapper=hooked,
            iter=0,
            log_dir=folder,
            visualizer=SimpleNamespace(add_scalars=lambda scalars, step: None),
            message_hub=MessageHub.get_instance('benchmark'),
        )
        hook = LayerGradNormHook(interval=10**9)  # records are timed apart: few pairs would hold one
        hook.before_train(runner)

        def synchronise() -> None:
            if device != 'cpu':
                torch.cuda.synchronize()

        def step(optim_wrapper, watched: bool) -> float:
            synchronise()
            start = time.perf_counter()
            if watched:
                hook.before_train_iter(runner, runner.iter)
            optim_wrapper.update_params(cross_entropy(model(images), labels))
            if watched:
                hook.after_train_iter(runner, runner.iter)
                runner.iter += 1
            synchronise()
            return time.perf_counter() - start

        times = ([], [])
        for i in range(warm_up + pairs):
            order = (0, 1) if i % 2 else (1, 0)
            for side in order:
                seconds = step((plain, hooked)[side], bool(side))
                if i >= warm_up:
                    times[side].append(seconds)
        synchronise()
        start = time.perf_counter()
        hook.after_train(runner)
        hook.before_train_iter(runner, runner.iter)
        synchronise()
        return *times, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='vit_base_patch16_224', help='timm ViT (default: vit_base_patch16_224)')
    parser.add_argument('--batch', type=int, default=4, help='pictures per step (default: 4)')
    parser.add_argument('--pairs', type=int, default=20, help='steps of each kind (default: 20)')
    parser.add_argument('--warm-up', type=int, default=2, help='pairs left out before (default: 2)')
    parser.add_argument('--threads', type=int, help="torch's threads on a CPU (default: torch's own)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    MMLogger.get_instance('benchmark', log_level='ERROR')
    torch.manual_seed(0)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = timm.create_model(args.model, num_classes=10).to(device).train()
    without, with_hook, record = measure(model, args.batch, args.pairs, args.warm_up, device)
    machine = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    base = statistics.median(without)
    added = statistics.median(b - a for a, b in zip(without, with_hook))
    per_step = added + record / INTERVAL
    print(
        f'{date.today()}, {machine}, Python {platform.python_version()}, torch {torch.__version__}, '
        f'timm {timm.__version__}\n'
    )
    print('| model | batch | pairs | step without, ms | step with, ms | hook per step, ms | record, ms | share |')
    print('|---|---|---|---|---|---|---|---|')
    print(
        f'| {args.model} | {args.batch} | {args.pairs} | {1e3 * base:.1f} | {1e3 * statistics.median(with_hook):.1f} '
        f'| {1e3 * added:.2f} | {1e3 * record:.1f} | {100 * per_step / base:.2f} % |'
    )


if __name__ == '__main__':
    main()
