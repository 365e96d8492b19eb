"""The runs that ``loop_overhead.py`` compares: their data, configs and the plain loop; each hands over after a step.

MMEngine's configs import this file, which registers the hook that hands over.
"""

import os
import resource
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIDES = ('ours', 'plain', 'stock', 'stock-runner')
NETWORK, BATCH, LR, WEIGHT_DECAY = 'deit_tiny_patch16_224', 16, 1e-5, 0.01
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CLASSES = ('cat', 'dog')
SOCKET = 'FTSGD_BENCHMARK_SOCKET'  # environment variable: file descriptor of the connection to the benchmark

COMMON = """
train_dataloader = dict(batch_size={batch}, num_workers=0, persistent_workers=False, drop_last=True,
                        dataset={train!r}, sampler=dict(type='DefaultSampler', shuffle=True),
                        collate_fn=dict(type='default_collate'))
val_dataloader = dict(batch_size={batch}, num_workers=0, persistent_workers=False, dataset={val!r},
                      sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'))
val_evaluator, val_cfg = {evaluator!r}, dict()
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, dict()
model = dict(type='ImageClassifier', backbone={backbone!r}, head={head!r},
             data_preprocessor=dict(num_classes=2, mean={mean!r}, std={std!r}, to_rgb=True))
custom_imports = dict(imports={imports!r}, allow_failed_imports=False)
"""


def write_images(root: Path, count: int, evaluated: int) -> None:
    """Crops of photographs of scikit-image as JPEGs of 400 x 350 pixels, in split/class directories."""
    import numpy as np
    from PIL import Image
    from skimage import data

    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    photos = [Image.fromarray(photo).resize((640, 560), Image.Resampling.LANCZOS) for photo in photos]
    draw = np.random.RandomState(0)
    for split, number in (('train', count), ('val', evaluated)):
        for i in range(number):
            x, y = draw.randint(240), draw.randint(210)
            path = root / split / CLASSES[i % 2] / f'{i:04d}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            photos[i % len(photos)].crop((x, y, x + 400, y + 350)).save(path, quality=90)


def data_and_model(data: Path, size: int, stock: bool, imports: list[str]) -> str:
    """Model, data sets and transforms of this project, or MMPretrain's own (Pillow's resize, as torchvision's)."""
    shorter = size * 8 // 7
    if stock:
        resize = dict(backend='pillow', interpolation='bicubic')
        load, pack = [dict(type='LoadImageFromFile')], [dict(type='PackInputs')]
        crop = [dict(type='RandomResizedCrop', scale=size, **resize)]
        flip = [dict(type='RandomFlip', prob=0.5, direction='horizontal')]
        edge = [dict(type='ResizeEdge', scale=shorter, edge='short', **resize), dict(type='CenterCrop', crop_size=size)]
        train = dict(type='CustomDataset', data_prefix=str(data / 'train'), pipeline=[*load, *crop, *flip, *pack])
        val = dict(type='CustomDataset', data_prefix=str(data / 'val'), pipeline=[*load, *edge, *pack])
        evaluator = dict(type='Accuracy', topk=(1,))
        backbone = dict(type='VisionTransformer', arch='deit-tiny', img_size=size, patch_size=16)
        head = dict(type='VisionTransformerClsHead', num_classes=2, in_channels=192)
    else:
        bicubic = dict(interpolation='bicubic')
        load, pack = [dict(type='LoadRGBImage')], [dict(type='PackRGB'), dict(type='PackInputs')]
        crop = [dict(type='torchvision/RandomResizedCrop', size=size, **bicubic)]
        flip = [dict(type='torchvision/RandomHorizontalFlip', p=0.5)]
        edge = [
            dict(type='torchvision/Resize', size=shorter, **bicubic),
            dict(type='torchvision/CenterCrop', size=size),
        ]
        named = [pack[0], dict(**pack[1], meta_keys=('img_path', 'split', 'group'))]
        both = dict(type='GroupedImages', data_root=str(data), tree='split/class')
        train = dict(**both, split='train', pipeline=[*load, *crop, *flip, *pack])
        val = dict(**both, split='val', test_mode=True, pipeline=[*load, *edge, *named])
        evaluator = dict(type='GroupAccuracy', id='val', ood='val')
        backbone = dict(type='TimmPooledBackbone', model_name=NETWORK, img_size=size)
        head = dict(type='LinearClsHead', num_classes=2, in_channels=192)
    names = dict(train=train, val=val, evaluator=evaluator, backbone=backbone, head=head, imports=imports)
    return COMMON.format(batch=BATCH, mean=MEAN, std=STD, **names)


def our_config(data: Path, size: int, epochs: int) -> str:
    """A config of this project's parts, with its default hooks."""
    parts = [str(ROOT / f'configs/_base_/{name}.py') for name in ('methods/adamw', 'runtime')]
    loop = dict(type='ResumableEpochTrainLoop', max_epochs=epochs, val_interval=1)
    return (
        f'_base_ = {parts!r}\n'
        f'{data_and_model(data, size, False, ["ftsgd_plugin", "loop_sides"])}\n'
        f'train_cfg = {loop!r}\n'
        f'optim_wrapper = dict(optimizer=dict(lr={LR}))\n'
        "custom_hooks = [dict(type=name) for name in ('HostMemoryHook', 'ResourceHook', 'RunRecordHook')]\n"
        "custom_hooks.append(dict(type='mmengine.TakeTurnsHook'))\n"
    )


def stock_config(data: Path, size: int, epochs: int, only_runner: bool) -> str:
    """A config as MMPretrain's own, with its default hooks, loop and checkpoints."""
    key, imports = ('id/accuracy', ['ftsgd_plugin']) if only_runner else ('accuracy/top1', [])
    return (
        "_base_ = 'mmpretrain::_base_/default_runtime.py'\n"
        f'{data_and_model(data, size, not only_runner, [*imports, "loop_sides"])}\n'
        f'train_cfg = dict(by_epoch=True, max_epochs={epochs}, val_interval=1)\n'
        f"optim_wrapper = dict(optimizer=dict(type='AdamW', lr={LR}, weight_decay={WEIGHT_DECAY}))\n"
        "param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)\n"
        f"default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best={key!r}, rule='greater'),\n"
        '                     logger=dict(interval=50))\n'
        'randomness = dict(seed=0)\n'
        "custom_hooks = [dict(type='mmengine.TakeTurnsHook')]\n"
    )


def train_plainly(data: str, size: int, epochs: int, work_dir: str) -> None:
    """The loop that anyone would write: torchvision's ImageFolder and transforms, timm, AdamW."""
    import timm
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    torch.manual_seed(0)
    bicubic = T.InterpolationMode.BICUBIC
    train = T.Compose([T.RandomResizedCrop(size, interpolation=bicubic), T.RandomHorizontalFlip(), T.PILToTensor()])
    val = T.Compose([T.Resize(size * 8 // 7, bicubic), T.CenterCrop(size), T.PILToTensor()])
    loader = DataLoader(ImageFolder(f'{data}/train', train), BATCH, shuffle=True, drop_last=True)
    val_loader = DataLoader(ImageFolder(f'{data}/val', val), BATCH)
    model = nn.Sequential(timm.create_model(NETWORK, num_classes=0, img_size=size), nn.Linear(192, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    best = -1.0
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for images, labels in loader:
            hand_over()
            loss = nn.functional.cross_entropy(model((images.float() - mean) / std), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model((images.float() - mean) / std).argmax(1) == labels).sum()) for images, labels in val_loader
            )
        accuracy = right / len(val_loader.dataset)
        print(f'epoch {epoch + 1}: loss {total / len(loader):.4f}, accuracy {accuracy:.3f}')
        state = {'model': model.state_dict(), 'optimizer': optimizer.state_dict(), 'epoch': epoch}
        torch.save(state, f'{work_dir}/last.pth')
        if accuracy > best:
            best = accuracy
            torch.save(model.state_dict(), f'{work_dir}/best.pth')
    hand_over()


def hand_over() -> None:
    """Tell the benchmark the CPU time of this process so far, its children included, and wait for the next turn."""
    if SOCKET not in os.environ:
        return
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    descriptor = int(os.environ[SOCKET])
    os.write(descriptor, f'{sum(one.ru_utime + one.ru_stime for one in used)}\n'.encode())
    if not os.read(descriptor, 1):
        os._exit(0)  # the benchmark wants no more


def register_hook() -> None:
    """For the configs, which import this file."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    @HOOKS.register_module(force=True)
    class TakeTurnsHook(Hook):
        """Hand over before every step, when its batch is loaded, and at the end."""

        priority = 'VERY_HIGH'

        def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
            hand_over()

        def after_run(self, runner) -> None:
            hand_over()


def command(side: str, config: Path, data: Path, size: int, epochs: int, work_dir: Path) -> list[str]:
    """The command line of a side."""
    if side == 'plain':
        return [sys.executable, __file__, str(data), str(size), str(epochs), str(work_dir)]
    if side == 'ours':
        return [sys.executable, str(ROOT / 'tools/train.py'), str(config), '--work-dir', str(work_dir)]
    import importlib.util

    stock = Path(importlib.util.find_spec('mmpretrain').origin).parent / '.mim/tools/train.py'
    return [sys.executable, str(stock), str(config), '--work-dir', str(work_dir)]


if __name__ == '__main__':
    train_plainly(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
elif 'mmengine' in sys.modules:
    register_hook()
