"""Hook that records the gradient norm of every layer during training."""

import csv
import functools
import io
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from ..layers import list_layers, paper_parts, weight_norms
from ..utils.errors import UserError
from ..utils.norms import scaled_norms, stacked_norms
from ..utils.patching import replaced

FILE_NAME = 'layer_grad_norms.csv'
QUANTITIES = ('norm', 'norm_per_sqrt_n', 'norm_per_weight_norm')
NORM_COLUMNS = ('iter', 'layer', 'role', 'block', 'parameters', 'updates', 'skipped', *QUANTITIES)


@dataclass
class _Segment:
    """Sums over the steps of an interval in which the same layers had gradients.

    Attributes:
        layers: Indices of these L layers.
        total: Sums of their norms over the updates, then the number of updates (L + 1,); on the device.
        steps: Number of calls of ``step``; more than updates if the loss scaler skipped some.
    """

    layers: tuple[int, ...]
    total: torch.Tensor
    steps: int = 0


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
        self._segments: list[_Segment] = []
        self._weights: torch.Tensor | None = None  # at the start of the interval (L,)
        self._observed: dict[int, list[torch.Tensor]] = {}  # layer -> norms observed during this backward pass
        self._stepped: bool | torch.Tensor = False

    def before_train(self, runner: Runner) -> None:
        """List the layers and start to observe the updates."""
        self._layers = list_layers(runner.model)
        self._parts = paper_parts(self._layers)
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
        if self._weights is None:
            self._weights = weight_norms(self._layers)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Add an update that happened during the backward pass, and record at the end of an interval."""
        if self._observed:
            layers = tuple(sorted(self._observed))
            self._add(layers, stacked_norms([self._observed[i] for i in layers]), True)
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
            self._add(layers, norms, self._stepped)

        self._undo.enter_context(replaced(optim_wrapper, 'step', measured_step))

    def _note_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Note that the optimizer was called, if by a loss scaler; a fused one reads on the device whether to skip."""
        found_inf = getattr(optimizer, 'found_inf', None)
        self._stepped = True if found_inf is None else found_inf == 0

    @torch._dynamo.disable
    def _measure(self, optim_wrapper: OptimWrapper) -> tuple[tuple[int, ...], torch.Tensor]:
        """Indices of the layers with a gradient, and its norm in each."""
        # Gradients of parameters outside the optimizer are never zeroed and belong to no update.
        held = {id(param) for group in optim_wrapper.optimizer.param_groups for param in group['params']}
        grads = {}
        for i, layer in enumerate(self._layers):
            own = [p.grad for p in layer.params.values() if p.grad is not None and id(p) in held]
            if own:
                grads[i] = own
        if not grads:
            return (), torch.zeros(0)
        norms = stacked_norms(list(grads.values()))
        if self._scaled:
            norms = norms / optim_wrapper.loss_scaler.scale(torch.ones_like(norms))  # get_scale() would synchronise
        return tuple(grads), norms

    @torch._dynamo.disable
    def _observe(self, param: nn.Parameter, grad: torch.Tensor) -> None:
        """Note the norm of a gradient before its update in the backward pass."""
        self._observed.setdefault(self._index[id(param)], []).append(stacked_norms([[grad]])[0])

    @torch._dynamo.disable
    def _add(self, layers: tuple[int, ...], norms: torch.Tensor, stepped: bool | torch.Tensor) -> None:
        """Add one step to the interval.

        Args:
            layers: Indices of the layers.
            norms: Their norms (L,).
            stepped: Whether it was an update; a scalar tensor if only the device has the answer.
        """
        row = torch.cat((norms, torch.ones_like(norms[:1])))
        if not self._segments or self._segments[-1].layers != layers:
            self._segments.append(_Segment(layers, torch.zeros_like(row)))
        segment = self._segments[-1]
        segment.steps += 1
        if isinstance(stepped, torch.Tensor):
            segment.total += torch.where(stepped, row, 0.0)
        elif stepped:
            segment.total += row

    def _record(self, runner: Runner, step: int) -> None:
        segments, self._segments = [segment for segment in self._segments if segment.layers], []
        weights, self._weights = self._weights, None
        if not segments:
            return
        values = torch.cat([weights, *(segment.total for segment in segments)]).tolist()  # the one synchronisation
        weights, values = values[: len(weights)], values[len(weights) :]
        sums = {}  # layer -> sum of norms, updates, skipped steps
        for segment in segments:
            *norms, updates = values[: len(segment.layers) + 1]
            values = values[len(segment.layers) + 1 :]
            for i, norm in zip(segment.layers, norms):
                total = sums.setdefault(i, [0.0, 0, 0])
                total[0] += norm
                total[1] += round(updates)
                total[2] += segment.steps - round(updates)
        rows = [self._row(step, i, *sums[i], weights[i]) for i in sorted(sums)]
        self._log_parts(runner, rows)
        if is_main_process():
            scalars = {f'{key}/{row["layer"]}': row[key] for row in rows for key in QUANTITIES if row[key] is not None}
            runner.visualizer.add_scalars(scalars, step=step)
            _append(Path(runner.log_dir) / FILE_NAME, rows)

    def _row(self, step: int, i: int, total: float, updates: int, skipped: int, weight: float) -> dict:
        layer = self._layers[i]
        values = (None, None, None)
        if updates:
            norm = total / updates
            values = (norm, *scaled_norms(norm, layer.num_params, weight))
        head = (step, layer.name, layer.role, layer.block, layer.num_params, updates, skipped)
        return dict(zip(NORM_COLUMNS, (*head, *values)))

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
