"""Write the record of a run, which tables and figures read."""

import math
import shlex
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner, TestLoop, ValLoop
from mmpretrain.registry import HOOKS

from ..evaluation.checks import check_evaluated_splits
from ..evaluation.selection import select_epoch
from ..optim.measured_rates import measured_lr_mult
from ..optim.state import optimizer_state_bytes
from ..records import RunRecord, code_version, config_hash, environment, is_smoke, run_names, write_record
from ..utils.metrics import selecting_key
from .resources import ResourceHook

_STATE = 'ftsgd_record'  # message hub, hence in every checkpoint: epochs, seconds and start of the run so far


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Write ``record.json`` (:class:`ftsgd_plugin.records.RunRecord`) into the work dir.

    The record exists from the start (``running``), gets the metrics of every split and group after each validation,
    and is ``finished`` at the end, or ``diverged`` (:class:`ftsgd_plugin.DivergenceHook`). Checkpoints contain the
    metrics so far, so that the record of a resumed run equals that of a run that was never stopped. ``seconds`` counts
    the work that led to the result, without work that a kill discarded. The peak is measured by :class:`ResourceHook`,
    if the run has one, since the last resume. A run with several optimizers gets no record. Rank 0 writes, atomically.
    Names: :func:`ftsgd_plugin.records.run_names`. The selected epoch is the best by the first ID metric of
    ``save_best`` of the checkpoint hook, else by ID accuracy.

    The splits of ``GroupAccuracy`` are checked before the run, so that its results can be recorded.

    Raises:
        UserError: The disk is full, the directory cannot be written, or a split of the evaluator is not evaluated.

    Examples:
        >>> custom_hooks = [dict(type='RunRecordHook')]
    """

    priority = 'LOW'  # after the metrics are in the message hub, before the checkpoint is written (VERY_LOW)

    def before_run(self, runner: Runner) -> None:
        """Check the evaluators of the loops that this run uses."""
        # Private names: the public properties would build a loop that the run does not use.
        for name, loop in (('val', runner._val_loop), ('test', runner._test_loop)):
            if isinstance(loop, ValLoop | TestLoop):
                check_evaluated_splits(loop, name)

    def before_train(self, runner: Runner) -> None:
        """Continue the history of a resumed run and write the record."""
        if not hasattr(runner.optim_wrapper, 'optimizer'):
            return  # several optimizers have several learning rates
        history = runner.message_hub.runtime_info.get(_STATE) or {}
        self._epochs: list[dict[str, float]] = [dict(metrics) for metrics in history.get('epochs', [])]
        self._seconds: float = history.get('seconds', 0.0)
        self._started: str = history.get('started') or _now()
        self._since = time.perf_counter()
        self._stopped = ''
        self._fixed = {
            **run_names(runner.cfg),
            'selected_by': self._selected_by(runner),
            'lr': float(runner.optim_wrapper.optimizer.defaults['lr']),
            'seed': int(runner.seed),
            'config_hash': config_hash(runner.cfg),
            'smoke': is_smoke(runner.cfg),
            'code': code_version(),
            'environment': environment(),
            'command': shlex.join(['python', *sys.argv]),
            'started': self._started,
        }
        self._write(runner, 'running')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the metrics of an evaluation during training."""
        if not hasattr(self, '_fixed'):
            return  # a validation without training
        values = {key: float(value) for key, value in (metrics or {}).items()}
        if unknown := [key for key, value in values.items() if not math.isfinite(value)]:
            runner.logger.warning(f'not in the record, as their values are NaN or Inf: {", ".join(unknown)}')
        self._epochs.append({key: value for key, value in values.items() if key not in unknown})
        self._write(runner, 'running')
        self.remember(runner)

    def after_train(self, runner: Runner) -> None:
        """Mark the record as finished."""
        if hasattr(self, '_fixed'):
            self._write(runner, 'stopped' if self._stopped else 'finished', self._stopped)

    def remember(self, runner: Runner) -> None:
        """Put the history so far into the checkpoints from now on."""
        if hasattr(self, '_fixed'):
            history = {'epochs': self._epochs, 'seconds': self._elapsed(), 'started': self._started}
            runner.message_hub.update_info(_STATE, history)

    def interrupt(self, runner: Runner, reason: str) -> None:
        """Mark the record as interrupted; a resumed run continues it."""
        if hasattr(self, '_fixed'):
            self._write(runner, 'interrupted', reason)

    def stop(self, reason: str) -> None:
        """Mark the record as stopped, not as finished, when the training ends."""
        self._stopped = reason

    def diverged(self, runner: Runner, line: str) -> None:
        """Mark the record of a run that ends because its numbers are no longer finite.

        Args:
            runner: The runner.
            line: What has happened, kept as the record's ``error``.
        """
        if hasattr(self, '_fixed'):
            self._write(runner, 'diverged', line)

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._since

    def _write(self, runner: Runner, status: str, error: str = '') -> None:
        if not is_main_process():
            return
        key = self._fixed['selected_by']
        evaluated = bool(self._epochs) and all(key in metrics for metrics in self._epochs)
        record = RunRecord(
            status=status,
            epochs=self._epochs,
            selected_epoch=select_epoch(self._epochs, id_metric=key) if evaluated else None,
            resources=self._resources(runner),
            phases=[row for scheduler in runner.param_schedulers or [] for row in getattr(scheduler, 'ended', [])],
            lr_mult=measured_lr_mult(runner.optim_wrapper.optimizer.param_groups),
            finished=_now() if status in ('finished', 'diverged', 'stopped') else '',
            error=error,
            **self._fixed,
        )
        write_record(record, Path(runner.work_dir))

    @staticmethod
    def _selected_by(runner: Runner) -> str:
        saving = [hook.save_best for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        return selecting_key(saving[0] if saving else None)

    def _resources(self, runner: Runner) -> dict[str, float]:
        optimizer = runner.optim_wrapper.optimizer
        measured = [hook.summary()['peak'] for hook in runner.hooks if isinstance(hook, ResourceHook) and hook.phases]
        return {
            'seconds': self._elapsed(),
            **({'peak_bytes': measured[0]} if measured else {}),
            'state_bytes': optimizer_state_bytes(optimizer),
            'parameters': sum(param.numel() for param in runner.model.parameters()),
            'trained_parameters': sum(p.numel() for group in optimizer.param_groups for p in group['params']),
        }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
