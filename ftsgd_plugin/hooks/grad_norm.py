"""Hook that records the gradient norm of every layer during training."""

import csv
import functools
import io
import math
from contextlib import ExitStack
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from ..layers import list_layers, paper_parts
from ..optim.layer_grad_norms import COLUMNS, QUANTITIES, GradNormSums, was_update
from ..utils.errors import UserError
from ..utils.norms import stacked_norms
from ..utils.patching import replaced

FILE_NAME = 'layer_grad_norms.csv'
NORM_COLUMNS = ('iter', *COLUMNS)


@HOOKS.register_module()
class LayerGradNormHook(Hook):
    """Record the gradient norm of every layer that trains, as a mean over the updates of an interval.

    The gradients are those of the update: all accumulated batches, reduced over the ranks, divided by the loss scale,
    before clipping. No MMEngine hook sees them (``OptimWrapper.update_params`` steps and zeroes them), and torch's
    hooks on ``Optimizer.step`` run after clipping. So ``optim_wrapper.step`` is replaced during training and restored
    afterwards. A step that the loss scaler or ``DivergenceHook`` skips is not an update and is counted separately.
    Wrappers that update during the backward pass provide ``optim_wrapper.observe_gradients(callback)``, which calls
    ``callback(param, grad)`` for each gradient and returns a handle with ``remove()``; without a handle the callback
    stays, idle.

    Norms stay on the device and are fetched once per interval. Three quantities per layer: ``norm`` (L2, over all
    parameters of the layer), ``norm_per_sqrt_n`` (``norm`` over the square root of the layer's number of parameters)
    and ``norm_per_weight_norm`` (``norm`` over the L2 norm of the layer's weights at the start of the interval).

    - ``layer_grad_norms.csv`` in the run's log directory (``work_dir/timestamp``, a new one when a run is resumed): per
      interval a line for each layer with a gradient, in the order of the network. Columns: ``iter`` (iterations done),
      ``layer``, ``role``, ``block`` (empty outside blocks), ``parameters``, ``updates`` (in the mean), ``skipped``
      (steps without an update), and the three quantities (empty without an update or with zero weights).
    - Every visualizer backend: ``norm/<layer>``, ``norm_per_sqrt_n/<layer>``, ``norm_per_weight_norm/<layer>``.
    - The log: ``grad/embed``, ``grad/middle`` (the largest of the layers between) and ``grad/head``, the paper's three
      parts of a network; a part without a gradient is absent. With a loss scaler also ``grad/skipped``. For a convnet
      ``grad/middle`` is smaller than ``largest_middle`` of ``measure_gradients``, which takes whole stages as the
      paper's figure does.

    Frozen layers are absent, also those that open or close during training.

    Args:
        interval (int): Iterations between two records. Defaults to 50, the log interval of this project's configs.

    Raises:
        UserError: ``interval`` is not a positive whole number, or the run has several optimizers.

    Examples:
        >>> custom_hooks = [dict(type='LayerGradNormHook', interval=50)]
    """

    priority = 'NORMAL'  # before LoggerHook (BELOW_NORMAL)

    def __init__(self, interval: int = 50) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
            raise UserError(f'LayerGradNormHook: interval={interval!r} is not a positive whole number of iterations.')
        self.interval = interval
        self._undo = ExitStack()  # removes what before_train has put on the optimizer wrapper
        self._observed: dict[int, list[torch.Tensor]] = {}  # layer -> norms observed during this backward pass
        self._stepped: bool | torch.Tensor = False

    def before_train(self, runner: Runner) -> None:
        """List the layers and start to observe the updates."""
        self._layers = list_layers(runner.model)
        self._parts = paper_parts(self._layers)
        self._sums = GradNormSums(self._layers)
        self._index = {id(param): i for i, layer in enumerate(self._layers) for param in layer.params.values()}
        optim_wrapper = runner.optim_wrapper
        self._scaled = hasattr(optim_wrapper, 'loss_scaler')
        self._undo.close()  # of a run that ended with an exception
        if hasattr(optim_wrapper, 'observe_gradients'):
            self._observe_backward(optim_wrapper)
        elif hasattr(optim_wrapper, 'optim_wrappers'):
            raise UserError(
                'LayerGradNormHook: supports runs with one optimizer only; remove the hook from custom_hooks.'
            )
        else:
            self._measure_before_step(optim_wrapper)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Compute the norms of the weights at the start of an interval."""
        self._sums.start()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Add an update that happened during the backward pass, and record at the end of an interval."""
        if self._observed:
            layers = tuple(sorted(self._observed))
            self._sums.add(layers, stacked_norms([self._observed[i] for i in layers]), True)
            self._observed.clear()
        if self.every_n_train_iters(runner, self.interval):
            self._record(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Record the rest of the last interval and stop observing."""
        self._record(runner, runner.iter)
        self._undo.close()

    def _observe_backward(self, optim_wrapper: OptimWrapper) -> None:
        observers = [self._observe]

        def observe(param: nn.Parameter, grad: torch.Tensor) -> None:
            for observer in observers:
                observer(param, grad)

        handle = optim_wrapper.observe_gradients(observe)
        self._undo.callback(observers.clear)
        if handle is not None:  # as wrappers written for version 0.1.0 return
            self._undo.callback(handle.remove)

    def _measure_before_step(self, optim_wrapper: OptimWrapper) -> None:
        step = optim_wrapper.step
        self._undo.callback(optim_wrapper.optimizer.register_step_post_hook(self._note_step).remove)

        @functools.wraps(step)  # keeps the mark by which MMEngine's schedulers know that they count its calls
        def measured_step(**kwargs) -> None:
            layers, norms = self._measure(optim_wrapper)
            self._stepped = False
            step(**kwargs)
            self._sums.add(layers, norms, self._stepped)

        self._undo.enter_context(replaced(optim_wrapper, 'step', measured_step))

    def _note_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Note that the optimizer was called, if by a loss scaler; a fused one reads on the device whether to skip."""
        self._stepped = was_update(optimizer)

    def _measure(self, optim_wrapper: OptimWrapper) -> tuple[tuple[int, ...], torch.Tensor]:
        """Indices of the layers with a gradient, and its norm in each."""
        held = {id(param) for group in optim_wrapper.optimizer.param_groups for param in group['params']}
        layers, norms = self._sums.measure(held)
        if self._scaled and layers:
            norms = norms / optim_wrapper.loss_scaler.scale(torch.ones_like(norms))  # get_scale() would synchronise
        return layers, norms

    @torch._dynamo.disable
    def _observe(self, param: nn.Parameter, grad: torch.Tensor) -> None:
        """Note the norm of a gradient before its update in the backward pass."""
        self._observed.setdefault(self._index[id(param)], []).append(stacked_norms([[grad]])[0])

    def _record(self, runner: Runner, step: int) -> None:
        rows = [{'iter': step, **row} for row in self._sums.take()]
        if not rows:
            return
        self._log_parts(runner, rows)
        if is_main_process():
            scalars = {f'{key}/{row["layer"]}': row[key] for row in rows for key in QUANTITIES if row[key] is not None}
            runner.visualizer.add_scalars(scalars, step=step)
            _append(Path(runner.log_dir) / FILE_NAME, rows)

    def _log_parts(self, runner: Runner, rows: list[dict]) -> None:
        norms = {'embed': [], 'middle': [], 'head': []}
        groups = {layer.name: layer.group for layer in self._layers}
        for row in rows:
            part = self._parts[groups[row['layer']]]
            if part and row['norm'] is not None:
                norms[part].append(row['norm'])
        scalars = {part: math.hypot(*norms[part]) for part in ('embed', 'head') if norms[part]}
        if norms['middle']:
            scalars['middle'] = max(norms['middle'])
        if self._scaled:
            scalars['skipped'] = max(row['skipped'] for row in rows)
        for part in (*norms, 'skipped'):
            if part in scalars:
                runner.message_hub.update_scalar(f'train/grad/{part}', scalars[part])
            else:  # otherwise the log would repeat the last value of a part that was frozen
                runner.message_hub.log_scalars.pop(f'train/grad/{part}', None)


def _append(path: Path, rows: list[dict]) -> None:
    """Append whole lines in a single write, below a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, NORM_COLUMNS, lineterminator='\n')
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        writer.writeheader()
    for row in rows:
        writer.writerow({key: f'{value:.8g}' if isinstance(value, float) else value for key, value in row.items()})
    with open(path, 'a', newline='') as file:
        file.write(text.getvalue())
