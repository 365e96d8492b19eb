"""Time that the check for NaN and Inf adds to a training step, as a share of the step.

    python benchmarks/finite_updates.py                                    # ViT-B/16, batch 4, minutes on a CPU
    python benchmarks/finite_updates.py --batch 32 --steps 50              # on a GPU
    python benchmarks/finite_updates.py --model vit_tiny_patch16_224 --steps 20

Random weights and images, SGD with momentum. On a GPU, blocks of training steps with and without the check take turns,
and nobody waits for the device within a block. On a CPU, where differences of whole steps are noise, ``step`` is called
on the same gradients with and without it in turn, and the time is that of the process. The share is the median
difference of neighbours over the median step without the check.
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
UPDATES = 8  # updates without and with the check per backward pass on a CPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='vit_base_patch16_224', help='name of a timm ViT')
    parser.add_argument('--batch', type=int, default=4, help='batch size')
    parser.add_argument('--steps', type=int, default=5, help='pairs of blocks')
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    name = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    print(f'{date.today()}, {name}, Python {platform.python_version()}, torch {torch.__version__}\n')
    print('| model | optimizer | batch | pairs | step without the check, ms | difference, ms | share |')
    print('|---|---|---|---|---|---|---|')
    for fused in (False, True) if device == 'cuda' else (False,):
        difference, step = measure(args.model, args.batch, args.steps, fused, device)
        kind = 'SGD, fused' if fused else 'SGD'
        row = (args.model, kind, args.batch, args.steps, f'{step:.1f}', f'{difference:.2f}', f'{difference / step:.2%}')
        print(f'| {" | ".join(map(str, row))} |')


def measure(name: str, batch: int, pairs: int, fused: bool, device: str) -> tuple[float, float]:
    """The median difference that the check makes, and the median step without it, in ms.

    Args:
        name: timm's name of a ViT.
        batch: Images per step.
        pairs: Pairs of blocks on a GPU; training steps on a CPU.
        fused: Whether the optimizer is.
        device: ``'cuda'`` or ``'cpu'``.
    """
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).to(device)
    images = torch.randn(batch, 3, *model.patch_embed.img_size, device=device)
    labels = torch.randint(10, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=fused)
    wrapper = OptimWrapper(optimizer)
    steps, differences = [], []
    for pair in range(pairs + 1):
        plain = block(model, wrapper, images, labels)
        if device == 'cuda':
            guard = FiniteUpdates(wrapper, model)
            added = [block(model, wrapper, images, labels) - plain]
            guard.remove()
        else:
            added = compare_updates(model, wrapper, images, labels)
        if pair:  # the first warms up
            steps.append(1000 * plain)
            differences += [1000 * seconds for seconds in added]
    return statistics.median(differences), statistics.median(steps)


def block(model: torch.nn.Module, wrapper: OptimWrapper, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds per training step of a block on a GPU, or of one step of the process on a CPU."""
    if not images.is_cuda:
        start = time.process_time()
        wrapper.update_params(cross_entropy(model(images), labels))
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(BLOCK):
        wrapper.update_params(cross_entropy(model(images), labels))
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / BLOCK


def compare_updates(model: torch.nn.Module, wrapper: OptimWrapper, images, labels) -> list[float]:
    """Seconds that the check adds to updates with the same gradients."""
    wrapper.backward(cross_entropy(model(images), labels))
    differences = []
    for _ in range(UPDATES):
        seconds = []
        for checked in (False, True):
            guard = FiniteUpdates(wrapper, model) if checked else None
            start = time.process_time()
            wrapper.step()
            seconds.append(time.process_time() - start)
            if guard:
                guard.remove()
        differences.append(seconds[1] - seconds[0])
    wrapper.zero_grad()
    return differences


if __name__ == '__main__':
    main()
