"""Measure the parts of a run as it trains: what opens and closes the parts of a :class:`Ledger`."""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from torch.optim import Optimizer
from torch.utils.data import get_worker_info

from ..layers import unwrap
from ..optim.state import optimizer_state_bytes, tensor_bytes
from ..utils.patching import replaced
from .ledger import Ledger
from .short_run import RunLength, shorten

STAGES = ('decode', 'transform', 'collate')
FIRST_STEPS = 'start-up/first steps'
_POINTS = [name for name in dir(Hook) if name.startswith(('before_', 'after_'))]


class StageTimes:
    """Seconds of decoding, transforming and collating, in the training process or in data workers.

    In the training process they are parts of the ledger. Workers add to memory that they share with it.

    Args:
        ledger: The ledger of the training process.
        workers: Number of workers of the loader.
    """

    def __init__(self, ledger: Ledger, workers: int) -> None:
        self.ledger: Ledger | None = ledger
        self._shared = torch.zeros(max(1, workers), len(STAGES) + 1, dtype=torch.float64).share_memory_()

    def __getstate__(self) -> dict:
        return {**vars(self), 'ledger': None}  # a worker that is not forked

    def __call__(self, stage: str, function: Callable) -> Callable:
        """A function whose calls are measured."""
        return _Staged(self, stage, function)

    def add(self, worker: int, stage: str, seconds: float, images: int = 0) -> None:
        """Add to the sums of a worker."""
        row = self._shared[worker]
        row[STAGES.index(stage)] += seconds
        row[-1] += images

    def worker_seconds_per_image(self) -> dict[str, float]:
        """Mean core seconds of each stage in workers; empty if there were none."""
        *seconds, images = self._shared.sum(0).tolist()
        return {stage: value / images for stage, value in zip(STAGES, seconds)} if images else {}


class _Staged:
    def __init__(self, times: StageTimes, stage: str, function: Callable) -> None:
        self.times, self.stage, self.function = times, stage, function

    def __call__(self, *args):
        if (info := get_worker_info()) is None:
            with self.times.ledger.within(f'data/{self.stage}'):
                return self.function(*args)
        start = time.perf_counter()
        result = self.function(*args)
        images = len(args[0]) if self.stage == 'collate' else 0
        self.times.add(info.id, self.stage, time.perf_counter() - start, images)
        return result

    def __getattr__(self, name: str):
        if name in ('function', 'times', 'stage'):  # not there yet: it is being unpickled
            raise AttributeError(name)
        return getattr(self.function, name)


def update_bytes(params: Sequence[torch.Tensor], optimizer: Optimizer) -> int:
    """Bytes that an update has to move: weights and state are read and written, gradients read."""
    return 3 * tensor_bytes(params) + 2 * optimizer_state_bytes(optimizer)


class RunProbes(Hook):
    """Shorten a run and give its time to the parts of a ledger; registered by ``profile_run`` as the last hook.

    Nothing that it does changes a number of the run: it reads clocks around calls. It does so

    - around every transform and the collation, in the process that runs them;
    - around the iterations of the loops: what lies between two of them is the wait for data;
    - before and after the data preprocessor and the model (PyTorch's forward hooks), around ``parse_losses``;
    - around ``backward``, ``step`` and ``zero_grad`` of the optimizer wrapper, and the step of the optimizer inside;
    - around every call of a hook that does something, the evaluator, and the writing of checkpoints.

    Args:
        ledger: Gets the time.
        iterations: Training steps at most, those of ``warmup`` included.
        evaluated: Images of the evaluation at most.
        warmup: First steps, which belong to the start-up.
    """

    priority = 'LOWEST'

    def __init__(self, ledger: Ledger, iterations: int, evaluated: int, warmup: int) -> None:
        self.ledger, self.iterations, self.evaluated, self.warmup = ledger, iterations, evaluated, warmup
        self.length: RunLength | None = None
        self.steps = self.images = self.validations = self.checkpoints = self.checkpoint_bytes = 0
        self.seconds_per_mark = self.wall_seconds = 0.0
        self.optimizer_bytes = self.batch_bytes_per_image = self.trained_parameters = 0
        self.train_times: StageTimes | None = None
        self.val_times: StageTimes | None = None
        self._undo = ExitStack()

    def before_train(self, runner: Runner) -> None:
        """Shorten the run and set the probes."""
        self.ledger.become('loop')
        self.ledger.rename = lambda part: FIRST_STEPS
        self.length = shorten(runner, self.iterations, self.evaluated)
        self.warmup = min(self.warmup, self.length.iterations - 1)
        self._probe_loops(runner)
        self._probe_model(runner)
        self._probe_optimizer(runner.optim_wrapper)
        for hook in runner.hooks:
            if hook is not self:
                for point in _POINTS:
                    if _does_something(hook, point):
                        self._around(hook, point, _hook_part(hook, point))
        save = runner.save_checkpoint

        def save_measured(out_dir: str, filename: str, *args, **kwargs) -> None:
            with self.ledger.within('checkpoint/writing'):
                save(out_dir, filename, *args, **kwargs)
            self.checkpoints += 1
            self.checkpoint_bytes += os.path.getsize(os.path.join(out_dir, filename))

        self._undo.enter_context(replaced(runner, 'save_checkpoint', save_measured))
        if not self.warmup:
            self.ledger.become('loop')
            self.ledger.rename = None

    def before_train_epoch(self, runner: Runner) -> None:
        """The wait for the first batch begins."""
        self.ledger.follow()
        self.ledger.become('data/wait')

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Count the step."""
        if self.warmup:
            self.warmup -= 1
            if not self.warmup:
                self.ledger.become('loop')  # what was before belongs to the first steps
                self.ledger.rename = None
            return
        self.steps += 1
        self.images += len(data_batch['inputs'])
        image = data_batch['inputs'][0]
        self.batch_bytes_per_image = image.numel() * image.element_size()

    def after_train_epoch(self, runner: Runner) -> None:
        """Nothing is waited for any more."""
        self.ledger.become('loop')

    def before_val(self, runner: Runner) -> None:
        """An evaluation begins."""
        self.ledger.enter('loop')
        self.ledger.rename = _of_evaluation

    def before_val_epoch(self, runner: Runner) -> None:
        """The wait for its first batch begins."""
        self.ledger.become('data/wait')

    def after_val(self, runner: Runner) -> None:
        """An evaluation has ended."""
        self.validations += 1
        self.ledger.leave()
        self.ledger.rename = None

    def after_train(self, runner: Runner) -> None:
        """Close the ledger and remove the probes."""
        self.seconds_per_mark = self.ledger.seconds_per_mark()
        self.ledger.become('')
        self.ledger.settle()
        self.wall_seconds = self.ledger.wall_seconds()
        self._undo.close()
        trained = [param for param in unwrap(runner.model).parameters() if param.requires_grad]
        self.trained_parameters = sum(param.numel() for param in trained)
        self.optimizer_bytes = update_bytes(trained, runner.optim_wrapper.optimizer)

    def _around(self, target: object, name: str, part: str) -> None:
        function = getattr(target, name)
        measured = functools.wraps(function)(self.ledger.during(part, function))
        self._undo.enter_context(replaced(target, name, measured))

    def _probe_loops(self, runner: Runner) -> None:
        loops = [(runner.train_loop, 'train_times')]
        if runner.val_loop is not None:
            loops.append((runner.val_loop, 'val_times'))
            for name in ('process', 'evaluate'):
                self._around(runner.val_loop.evaluator, name, 'metric')
        for loop, name in loops:
            times = StageTimes(self.ledger, loop.dataloader.num_workers)
            setattr(self, name, times)
            for pipeline in _pipelines(loop.dataloader.dataset):
                staged = [times(_stage(step), step) for step in pipeline.transforms]
                self._undo.enter_context(replaced(pipeline, 'transforms', staged))
            collate = times('collate', loop.dataloader.collate_fn)
            self._undo.enter_context(replaced(loop.dataloader, 'collate_fn', collate))
            self._undo.enter_context(replaced(loop, 'run_iter', self._iteration(loop.run_iter)))

    def _iteration(self, run_iter: Callable) -> Callable:
        def measured(*args, **kwargs):
            self.ledger.become('loop')
            result = run_iter(*args, **kwargs)
            self.ledger.become('data/wait')
            return result

        return measured

    def _probe_model(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        for module, part in ((model.data_preprocessor, 'copy'), (model, 'forward')):
            before = module.register_forward_pre_hook(lambda module, args, part=part: self.ledger.enter(part))
            after = module.register_forward_hook(lambda module, args, output: self.ledger.leave())
            self._undo.callback(before.remove)
            self._undo.callback(after.remove)
        self._around(model, 'parse_losses', 'forward')

    def _probe_optimizer(self, optim_wrapper) -> None:
        self._around(optim_wrapper, 'backward', 'backward')
        self._around(optim_wrapper, 'step', 'optimizer/check')
        self._around(optim_wrapper, 'zero_grad', 'optimizer/zero')
        optimizer = optim_wrapper.optimizer
        before = optimizer.register_step_pre_hook(lambda *args: self.ledger.enter('optimizer/update'))
        after = optimizer.register_step_post_hook(lambda *args: self.ledger.leave())
        self._undo.callback(before.remove)
        self._undo.callback(after.remove)


def _of_evaluation(part: str) -> str:
    return part if part.startswith('checkpoint/') else f'evaluation/{part}'


def _hook_part(hook: Hook, point: str) -> str:
    if point == 'before_save_checkpoint' or (isinstance(hook, CheckpointHook) and not point.endswith('_iter')):
        return 'checkpoint/preparation'
    return f'hooks/{type(hook).__name__}'


def _does_something(hook: Hook, point: str) -> bool:
    """Whether a hook has code of its own at a point; MMEngine's base class has empty methods for all of them."""
    general = '_' + point.replace('train_', '').replace('val_', '').replace('test_', '')
    return any(
        name in vars(hook) or getattr(type(hook), name, None) is not getattr(Hook, name, None)
        for name in (point, general)
    )


def _pipelines(dataset) -> Iterator:
    """The pipelines of a data set and of those inside it."""
    if hasattr(getattr(dataset, 'pipeline', None), 'transforms'):
        yield dataset.pipeline
    for inner in (*getattr(dataset, 'datasets', ()), *([dataset.dataset] if hasattr(dataset, 'dataset') else [])):
        yield from _pipelines(inner)


def _stage(transform: object) -> str:
    return 'decode' if type(transform).__name__.startswith('Load') else 'transform'
