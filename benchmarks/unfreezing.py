"""Time of a training step at each phase of gradual unfreezing, relative to full fine-tuning.

    python benchmarks/unfreezing.py                                   # ViT-B/16, batch 4, prints Markdown
    python benchmarks/unfreezing.py --model vit_tiny_patch16_224 --batch-size 16 --rounds 20

A forward pass costs one third of a step and a backward pass two thirds, half of it for the weights and half for the
activations; closed blocks need no backward pass, so a step with a share p of the blocks open takes about
(1 + 2 p) / 3. Phases are measured in turn, round after round, so that a busy machine affects all of them.
"""

import argparse
import platform
import statistics
import time
from datetime import date

import timm
import torch
from mmengine.optim import build_optim_wrapper
from torch.nn.functional import cross_entropy

import ftsgd_plugin  # noqa: F401
from ftsgd_plugin.freezing import set_trainable
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim.schedule import trains

CLASSES = 17


def open_top(model: torch.nn.Module, opened: int | None, blocks: int) -> None:
    """Let the top blocks train, or, for ``None``, everything (full fine-tuning)."""
    for layer in list_layers(model):
        wanted = opened is None or (layer.role != 'embed' and trains(layer.role, layer.block, opened, blocks))
        set_trainable(layer.params.values(), wanted)


def step_seconds(model, optim_wrapper, images, labels) -> float:
    """One synchronised training step."""
    start = time.perf_counter()
    optim_wrapper.update_params(cross_entropy(model(images), labels))
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='vit_base_patch16_224', help="timm's name (random weights)")
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=5, help='measured steps per phase')
    parser.add_argument('--every', type=int, default=3, help='step between the measured numbers of open blocks')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()

    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=CLASSES).to(args.device)
    blocks = len({layer.block for layer in list_layers(model) if layer.role == 'block'})
    cfg = dict(
        optimizer=dict(type='SGD', lr=1e-4, momentum=0.9),
        constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
        paramwise_cfg=dict(freeze='none'),
    )
    optim_wrapper = build_optim_wrapper(model, cfg)
    images = torch.randn(args.batch_size, 3, 224, 224, device=args.device)
    labels = torch.randint(CLASSES, (args.batch_size,), device=args.device)
    phases: list[int | None] = [None, *range(0, blocks + 1, args.every)]
    times: dict[int | None, list[float]] = {phase: [] for phase in phases}
    for round_ in range(args.rounds + 1):  # the first one warms up
        for phase in phases:
            open_top(model, phase, blocks)
            seconds = step_seconds(model, optim_wrapper, images, labels)
            if round_:
                times[phase].append(seconds)
        print(f'round {round_} of {args.rounds}', end='\r', flush=True)
    full = statistics.median(times[None])
    device = torch.cuda.get_device_name() if args.device.startswith('cuda') else f'CPU, {platform.machine()}'
    print(f'{date.today()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, timm '
          f'{timm.__version__}, {args.model}, batch {args.batch_size}, median of {args.rounds}\n')  # fmt: skip
    print('| open blocks | ms per step | of full fine-tuning | bound (1 + 2p) / 3 |\n|---|---|---|---|')
    for phase in phases:
        name = 'full fine-tuning' if phase is None else f'{phase} of {blocks}'
        bound = 1.0 if phase is None else (1 + 2 * phase / blocks) / 3
        median = statistics.median(times[phase])
        print(f'| {name} | {1000 * median:,.0f} | {median / full:.2f} | {bound:.2f} |')


if __name__ == '__main__':
    main()
