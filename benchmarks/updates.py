"""Time an optimizer's update tensor by tensor, with ``foreach`` and ``fused``, and compare the weights bit by bit.

    python benchmarks/updates.py                       # on the CPU with one thread, half a minute
    python benchmarks/updates.py --device cuda --model vit_base_patch16_224

Every way makes the same updates of the same weights with the same random gradients. On a CPU the time is that of the
process.
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from statistics import median

import timm
import torch

WAYS = {'tensor by tensor': dict(foreach=False), 'foreach': dict(foreach=True), 'fused': dict(fused=True)}
OPTIMIZERS = {
    'SGD': (torch.optim.SGD, dict(lr=0.1, weight_decay=0.01)),
    'SGD with momentum': (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    'Adam': (torch.optim.Adam, dict(lr=1e-3, weight_decay=0.01)),
    'AdamW': (torch.optim.AdamW, dict(lr=1e-3, weight_decay=0.01)),
}


def update(
    name: str, build: Callable, device: str, steps: int, options: dict, way: dict
) -> tuple[list[torch.Tensor], float]:
    """The weights after so many updates, and the median seconds of one; the first makes the state and is left out."""
    torch.manual_seed(0)
    params = list(timm.create_model(name, num_classes=2).to(device).parameters())
    optimizer = build(params, **options, **way)
    draw, times = torch.Generator(device).manual_seed(1), []
    for _ in range(1 + steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=draw, device=device) * 0.01
        times.append(timed(optimizer.step, device))
    return [param.detach() for param in params], median(times[1:])


def timed(step: Callable, device: str) -> float:
    """Seconds of a call: of the process on a CPU, of the device on a GPU."""
    if device == 'cpu':
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='deit_tiny_patch16_224', help='name of timm (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=5, help='updates (default: 5)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.cuda.get_device_name() if args.device == 'cuda' else f'CPU ({platform.machine()}), 1 thread'
    print(f'{date.today()}, {device}, torch {torch.__version__}, timm {timm.__version__}; {args.model}\n')
    print(
        '| optimizer | tensor by tensor, ms | foreach, ms | weights | fused, ms | weights |\n|---|---|---|---|---|---|'
    )
    for name, (kind, options) in OPTIMIZERS.items():
        (reference, seconds), *others = (
            update(args.model, kind, args.device, args.steps, options, way) for way in WAYS.values()
        )
        cells = [f'{1e3 * seconds:.1f}']
        for weights, seconds in others:
            worst = max(float((one - other).abs().max()) for one, other in zip(reference, weights))
            cells += [f'{1e3 * seconds:.1f}', 'bit-identical' if worst == 0 else f'differ by at most {worst:.1g}']
        print(f'| {name} | {" | ".join(cells)} |')


if __name__ == '__main__':
    main()
