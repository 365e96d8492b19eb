"""Time that the check for NaN and Inf adds to a training step, as a share of the step.

    python benchmarks/finite_updates.py                                    # ViT-B/16, batch 4, minutes on a CPU
    python benchmarks/finite_updates.py --batch 32 --steps 50              # on a GPU
    python benchmarks/finite_updates.py --model vit_tiny_patch16_224 --steps 20

Random weights and images, SGD with momentum. Blocks of training steps with and without the check take turns, so that a
busy moment affects both, and nobody waits for the device within a block. On a CPU a block is one step and its time is
that of the process; the share is the median difference of neighbouring blocks over the median block without it.
"""

import argparse
import platform
import statistics
import time
from datetime import date

import timm
import torch
from mmengine.optim import OptimWrapper
from torch.nn.functional import cross_entropy

from ftsgd_plugin.optim.finite import FiniteUpdates

BLOCK = 10  # steps per block on a GPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='vit_base_patch16_224', help='name of a timm ViT')
    parser.add_argument('--batch', type=int, default=4, help='batch size')
    parser.add_argument('--steps', type=int, default=5, help='pairs of blocks')
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=10).to(device)
    images = torch.randn(args.batch, 3, *model.patch_embed.img_size, device=device)
    labels = torch.randint(10, (args.batch,), device=device)
    name = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    print(f'{date.today()}, {name}, Python {platform.python_version()}, torch {torch.__version__}\n')
    print('| model | optimizer | batch | pairs | step without the check, ms | difference, ms | share |')
    print('|---|---|---|---|---|---|---|')
    for fused in (False, True) if device == 'cuda' else (False,):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=fused)
        wrapper = OptimWrapper(optimizer)
        blocks: dict[bool, list[float]] = {False: [], True: []}
        for pair in range(args.steps + 1):
            for checked in (False, True):
                guard = FiniteUpdates(wrapper, model) if checked else None
                seconds = block(model, wrapper, images, labels, BLOCK if device == 'cuda' else 1)
                if guard:
                    guard.remove()
                if pair:  # the first warms up
                    blocks[checked].append(1000 * seconds)
        difference = statistics.median(b - a for a, b in zip(blocks[False], blocks[True]))
        step = statistics.median(blocks[False])
        kind = 'SGD, fused' if fused else 'SGD'
        row = (args.model, kind, args.batch, args.steps, f'{step:.1f}', f'{difference:.2f}', f'{difference / step:.2%}')
        print(f'| {" | ".join(map(str, row))} |')


def block(model: torch.nn.Module, wrapper: OptimWrapper, images, labels, steps: int) -> float:
    """Seconds per step of a block: of the device, or of the process on a CPU."""
    if images.is_cuda:
        torch.cuda.synchronize()
    clock = time.perf_counter if images.is_cuda else time.process_time
    start = clock()
    for _ in range(steps):
        wrapper.update_params(cross_entropy(model(images), labels))
    if images.is_cuda:
        torch.cuda.synchronize()
    return (clock() - start) / steps


if __name__ == '__main__':
    main()
