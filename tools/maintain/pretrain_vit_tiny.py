"""Make the demo's pretrained weights, `ftsgd_plugin/models/weights/vit-tiny.safetensors`.

    python tools/maintain/pretrain_vit_tiny.py                # 22 minutes on two busy CPU cores
    python tools/maintain/pretrain_vit_tiny.py --steps 200    # a smoke test

Task and images differ from the demo's: classify the digit (10 classes) and the photograph (9 classes), on digits 0 to
599 and photographs that the benchmark never uses. AdamW, one-cycle schedule, random compositions.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

import ftsgd_plugin  # noqa: F401  registers the components
from ftsgd_plugin.datasets import digits
from ftsgd_plugin.utils.files import atomic_write, sha256, write_text
from ftsgd_plugin.utils.format import format_bytes

ROOT = Path(__file__).resolve().parents[2]


class Compositions(IterableDataset):
    """Endless batches: images (B, 3, H, W) float32 in [-1, 1], digit labels (B,), photograph labels (B,)."""

    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed

    def __iter__(self):
        images, labels = digits.load_digits()
        images, labels = images[: digits.PRETRAIN_DIGITS], labels[: digits.PRETRAIN_DIGITS]
        photos = [digits.load_photo(name) for name in digits.PRETRAIN_PHOTOS]
        rng = np.random.RandomState(self.seed)
        while True:
            which = rng.randint(len(images), size=self.batch_size)
            where = rng.randint(len(photos), size=self.batch_size)
            batch = np.stack([digits.paste(images[i], photos[k], rng) for i, k in zip(which, where)])
            inputs = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
            yield inputs, torch.from_numpy(labels[which]), torch.from_numpy(where)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default=ROOT / 'ftsgd_plugin/models/weights/vit-tiny.safetensors', type=Path)
    parser.add_argument('--steps', default=10_000, type=int, help='optimizer steps of 128 images')
    parser.add_argument('--seed', default=0, type=int)
    return parser.parse_args()


def pretrain(out: Path, steps: int, seed: int) -> None:
    """Train the backbone with two linear heads and write its weights.

    Args:
        out: The ``.safetensors`` file.
        steps: Optimizer steps of 128 images.
        seed: Seed of the weights and the compositions.
    """
    torch.manual_seed(seed)
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/vit-tiny.py').model.backbone
    cfg.pop('init_cfg')
    backbone = MODELS.build(cfg)
    backbone.init_weights()
    head = torch.nn.Linear(backbone.embed_dims, 10 + len(digits.PRETRAIN_PHOTOS))
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.05)

    correct_digit = correct_photo = 0.0
    batches = iter(DataLoader(Compositions(128, seed), batch_size=None, num_workers=1))
    progress = tqdm(range(steps), mininterval=5)
    for _ in progress:
        inputs, digit, photo = next(batches)
        logits = head(backbone(inputs)[0])
        loss = cross_entropy(logits[:, :10], digit) + cross_entropy(logits[:, 10:], photo)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        correct_digit += 0.02 * ((logits[:, :10].argmax(1) == digit).float().mean().item() - correct_digit)
        correct_photo += 0.02 * ((logits[:, 10:].argmax(1) == photo).float().mean().item() - correct_photo)
        progress.set_postfix(loss=f'{loss.item():.3f}', digit=f'{correct_digit:.3f}', photo=f'{correct_photo:.3f}')

    with atomic_write(out) as temporary:
        save_file({name: value.contiguous() for name, value in backbone.state_dict().items()}, temporary)
    write_text(out.with_suffix('.sha256'), f'{sha256(out)}  {out.name}\n')
    print(f'{out}: {format_bytes(out.stat().st_size)}')


def main() -> None:
    args = parse_args()
    pretrain(args.out, args.steps, args.seed)


if __name__ == '__main__':
    main()
