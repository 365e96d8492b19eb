"""End a run of a sweep early where other learning rates are better."""

from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..evaluation.halving import FACTOR, continues
from ..records import FILE, RunRecord, read_record
from ..utils.errors import UserError
from .run_record import RunRecordHook


@HOOKS.register_module()
class HalvingHook(Hook):
    """Successive halving by ID accuracy among the runs of a sweep; ``tools/sweep.py --halving`` sets it.

    After an evaluation the run reads the records of its rivals, which are in directories beside its own, and ends
    unless :func:`ftsgd_plugin.evaluation.halving.continues` is true. Its record is ``stopped`` then, which no table
    shows. A run that continues has the numbers that it would have without the hook. The metric is the one that selects
    its best epoch, which is of ID data.

    Args:
        rivals: Name of a run's directory -> ``config_hash`` of its record; the run itself may be among them.
        evaluations: Evaluations of a whole run.
        factor: One of so many runs continues. Defaults to 3.
        first: Evaluations before the first decision. Default: a ``factor ** 2``-th of all.

    Raises:
        UserError: A value is out of range.

    Examples:
        >>> custom_hooks = [dict(type='HalvingHook', rivals={'run_lr1e-3': '...'}, evaluations=20)]
    """

    priority = 'VERY_LOW'  # after RunRecordHook has written the evaluation

    def __init__(
        self, rivals: Mapping[str, str], evaluations: int, factor: float = FACTOR, first: int | None = None
    ) -> None:
        if not factor > 1:
            raise UserError(f'HalvingHook: factor={factor!r} is not more than 1; 3 keeps a third of the runs.')
        for name, value in (('evaluations', evaluations), ('first', 1 if first is None else first)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f'HalvingHook: {name}={value!r} is not a positive whole number of evaluations.')
        self.rivals, self.evaluations, self.factor, self.first = dict(rivals), evaluations, factor, first

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Decide on the main process; all ranks end together."""
        recorders = [hook for hook in runner.hooks if isinstance(hook, RunRecordHook)]
        if not recorders or not hasattr(runner._train_loop, 'stop_training'):
            return  # a validation without training
        line = [self._reason(Path(runner.work_dir)) if is_main_process() else '']
        broadcast_object_list(line)
        if line[0]:
            runner.logger.info(line[0])
            recorders[0].stop(line[0])
            runner.train_loop.stop_training = True

    def _reason(self, directory: Path) -> str:
        """Why the run ends; empty if it continues."""
        own = read_record(directory)
        rivals = [
            record.epochs
            for name, config_hash in self.rivals.items()
            if name != directory.name and (record := _record(directory.parent / name, config_hash)) is not None
        ]
        key = own.selected_by
        if continues(own.epochs, rivals, key, self.evaluations, self.factor, self.first):
            return ''
        best = own.selected[key] if own.selected else own.epochs[-1].get(key, float('nan'))
        return (
            f'successive halving: {key} {best:.4f} after {len(own.epochs)} of {self.evaluations} evaluations is not '
            f'among the best 1/{self.factor:g} of {len(rivals) + 1} learning rates'
        )


def _record(directory: Path, config_hash: str) -> RunRecord | None:
    try:
        record = read_record(directory) if (directory / FILE).is_file() else None
    except UserError:
        return None  # being replaced, or of another version
    return record if record is not None and record.config_hash == config_hash else None
