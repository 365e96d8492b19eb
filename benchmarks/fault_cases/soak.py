"""A long run with every hook on: memory, descriptors and the growth of the log stay flat."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from .place import Outcome, Place, last_line

EVERY = (
    'train_cfg = dict(_delete_=True, type="ResumableIterTrainLoop", max_iters={count}, val_interval={part})\n'
    'param_scheduler = [dict(type="GradualUnfreezingLR", by_epoch=False, end={part})]\n'
    'default_hooks = dict(checkpoint=dict(by_epoch=False, interval={part}), logger=dict(interval=10),\n'
    '                     visualization=dict(enable=True, interval=8))\n'
    'log_processor = dict(by_epoch=False)\n'
    'custom_hooks = [dict(type="HostMemoryHook"), dict(type="ResourceHook"), dict(type="RunRecordHook"),\n'
    '                dict(type="LayerGradNormHook", interval=10), dict(type="EMAHook")]\n'
)
PARTS = 6  # validations and checkpoints in the run; everything is open after the first part
SLACK = 1.03  # a later third may have so much more


def soak(place: Place, count: int) -> Iterator[Outcome]:
    """``count`` iterations; the second and the last third of the rest are compared."""
    import psutil

    part = max(10, count // PARTS)
    config = place.small_config('soak.py', EVERY.format(count=count, part=part), workers=2)
    work_dir = place.fresh('soak')
    options = ['--cfg-options', *(f'val_dataloader.dataset.datasets.{i}.indices=16' for i in (0, 1))]
    samples = []  # iteration, memory, descriptors, bytes of log
    with place.started('tools/train.py', config, '--work-dir', work_dir, *options, name='soak') as run:
        process = psutil.Process(run.pid)
        while not run.program.has_ended():
            with contextlib.suppress(psutil.Error):
                logged = sum(path.stat().st_size for path in _logs(work_dir))
                sample = (_iteration(run.text()), process.memory_info().rss, process.num_fds(), logged)
                samples.append(sample)
            time.sleep(0.5)
        result = run.result()
    if result.returncode != 0:
        yield from (Outcome(name, False, last_line(result)) for name in ('memory', 'descriptors', 'log'))
        return
    begin, middle = count // 3, 2 * count // 3
    second = [sample for sample in samples if begin <= sample[0] < middle]
    last = [sample for sample in samples if sample[0] >= middle]
    if not second or not last:
        yield Outcome('samples', False, 'the run was too short to compare its thirds')
        return
    for name, column in (('memory', 1), ('descriptors', 2)):
        medians = [median(sample[column] for sample in third) for third in (second, last)]
        detail = f'{medians[0]:,.0f} in the second third, {medians[1]:,.0f} in the last'
        yield Outcome(name, medians[1] <= medians[0] * SLACK, detail)
    growth = [(third[-1][3] - third[0][3]) / max(1, third[-1][0] - third[0][0]) for third in (second, last)]
    detail = f'{growth[0]:.0f} and {growth[1]:.0f} bytes of log per iteration'
    yield Outcome('log', growth[1] <= growth[0] * 1.1, detail)


def _iteration(text: str) -> int:
    return int(([0] + re.findall(r'Iter\(train\) \[ *(\d+)/', text))[-1])


def _logs(work_dir: Path) -> list[Path]:
    return [path for kind in ('*.log', '*.json', '*.csv') for path in work_dir.rglob(kind)]
