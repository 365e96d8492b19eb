"""From data and the name of a model to a fine-tuned classifier: the steps, their order and their record."""

import os
import shlex
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from mmengine.config import Config

from ..paper.grids import format_rate
from ..paper.names import method_label
from ..profiling.phases import load_method
from ..records import read_record
from ..results.report import write_report
from ..runner.run import test
from ..sweep.ray_backend import LOG
from ..sweep.runs import has_diverged
from ..utils.cli import launch_rank
from ..utils.errors import DivergedError, UserError
from ..utils.format import format_bytes, format_duration
from ..utils.signals import Interrupted, StopSignals
from .config import config_text
from .data import find_data
from .measure import Measured, measure
from .model import find_model
from .options import AUTO, Options
from .progress import ProgressHook, metrics_text, show
from .runs import REPLACED, best_checkpoint, free_memory, output_in, run_task, training_task, warnings_on_terminal
from .search import Searched, describe_search, search_rates
from .state import SEARCH, TRAINING, State
from .time_plan import DEFAULT_EPOCHS, Costs, TimePlan, plan_time, rates_to_try
from .written import WrittenConfig

METRICS, REPORT = 'metrics.json', 'report.html'  # in the work directory
DIAGNOSIS, EVALUATION = 'diagnosis', 'evaluation'  # directories there
_FIRST_METHOD = 'freeze-embed'  # of the config before the diagnosis


@dataclass(frozen=True)
class Result:
    """What a finished fine-tuning leaves.

    Attributes:
        directory: The work directory.
        config: The config.
        run: The directory of the training, for ``tools/predict.py``.
        checkpoint: The weights that ID selects.
        metrics: Of these weights on every split.
        method: Method part.
        lr: Learning rate.
    """

    directory: Path
    config: Path
    run: Path
    checkpoint: Path
    metrics: dict[str, float]
    method: str
    lr: float


def default_directory(options: Options) -> Path:
    """``work_dirs/DATA_MODEL``."""
    data = Path(options.data).expanduser().absolute()
    name = data.stem if data.is_file() else data.name
    return Path('work_dirs') / f'{name}_{options.model.rpartition("/")[2]}'


def finetune(
    options: Options, work_dir: str | os.PathLike | None = None, dry_run: bool = False, command: str = ''
) -> Result | None:
    """Fine-tune a model on data; the logic of ``tools/finetune.py``. The same call again continues where it was.

    Args:
        options: What is asked for.
        work_dir: Directory of everything that is written. Default: :func:`default_directory`.
        dry_run: Stop before the first training.
        command: Recorded in the pages.

    Returns:
        Result | None: ``None`` after a dry run.

    Raises:
        UserError: Data, model, an option or the work directory does not fit; in nearly all cases before training.
        Interrupted: A signal has stopped it.

    Examples:
        >>> finetune(Options('data/pets', 'timm/vit_small_patch14_dinov2.lvd142m', time=7200.0)).metrics['id/accuracy']
    """
    if launch_rank() is not None:
        raise UserError(
            'tools/finetune.py: is one process; start it alone, and train the config that it writes with '
            'tools/dist_train.sh.'
        )
    directory = Path(work_dir or default_directory(options))
    state = State.open(directory, options.as_data())
    warnings_on_terminal()
    try:
        with StopSignals(), state.locked():
            return _Finetuning(options, state, command).run(dry_run)
    except Interrupted as stop:
        name = signal.Signals(stop.number).name
        line = f'{directory}: interrupted by {name}; nothing is lost: start the same command again to continue'
        raise Interrupted(stop.number, line) from None


class _Finetuning:
    """The steps of one call. Each is recorded when it ends; a second call takes it from there."""

    def __init__(self, options: Options, state: State, command: str) -> None:
        self.options, self.state, self.command = options, state, command
        self.directory = state.directory
        self.config = WrittenConfig(state)

    def run(self, dry_run: bool) -> Result | None:
        """Take the steps that are left."""
        self.config.check()
        self.look()
        self.measure()
        self.plan_time()
        if dry_run:
            show('dry run', 'nothing is trained; without --dry-run the same command continues from here')
            return None
        self.search()
        self.train()
        self.evaluate()
        return self.finish()

    def look(self) -> None:
        """Recognise the data and find the model."""
        saved = self.state.get('data') if self.state.has_runs else None  # else the user may have put it right
        self.data = find_data(self.options, saved and saved['unreadable'])
        found = {**self.data.facts(), 'unreadable': self.data.unreadable}
        if saved is not None and saved != found:
            raise UserError(
                f'{found["root"]}: has changed since {self.directory} was begun; choose another --work-dir.'
            )
        if found != self.state.get('data'):
            self.state.begin_again()
        show('data', *self.data.lines())
        self.model = find_model(self.options)
        show('model', *self.model.lines)
        self.state.put('data', found)
        self.epochs = self.options.epochs or DEFAULT_EPOCHS

    def measure(self) -> None:
        """Diagnose the model on the data; write the config with the method that will train."""
        asked, saved = self.options.method, self.state.get('diagnosis')
        if saved is None:
            cfg = self.write_config(_FIRST_METHOD if asked == AUTO else asked)
            show('diagnosis', 'measuring gradients, memory and time ...')
            name = f'{self.model.name} on {self.data.name}'
            measured = measure(cfg, name, asked, self.options.memory, self.directory / DIAGNOSIS, self.command)
            saved = self.state.put('diagnosis', measured.to_dict())
        self.measured = measured = Measured(**saved)
        limit = f'of {format_bytes(measured.memory)}' if measured.memory else '(--memory sets a limit)'
        show(
            'diagnosis',
            measured.headline if asked == AUTO else f'{asked}, as asked for. The diagnosis says: {measured.headline}',
            f'memory: {format_bytes(measured.bytes)} {limit}; time: {1000 * measured.train_image:.3g} ms per image; '
            f'why: {self.directory / DIAGNOSIS / "diagnosis.html"}',
        )
        if not self.state.get('search'):
            self.cfg = self.write_config(measured.method)

    def plan_time(self) -> None:
        """Divide the time."""
        measured, saved = self.measured, self.state.get('plan')
        self.costs = Costs(measured.train_image, measured.eval_image, *self.data.counts())
        if saved is None:
            rates = [] if self.options.lr else rates_to_try(measured.method)
            saved = self.state.put('plan', asdict(plan_time(self.costs, rates, self.epochs, self._left())))
        self.plan = plan = TimePlan(**{**saved, 'rates': tuple(saved['rates'])})
        lines = [plan.note] if plan.note else []
        if plan.rates:
            lines.append(
                f'try {len(plan.rates)} learning rates for {_count(plan.search_epochs, "epoch")} each, ID only: about '
                f'{format_duration(plan.search_seconds)}'
            )
        lines.append(f'train {_count(plan.epochs, "epoch")}: about {format_duration(plan.training_seconds)}')
        show('plan', *lines)

    def search(self) -> None:
        """Choose the learning rate; write the config with it."""
        plan, saved, lr = self.plan, self.state.get('search'), self.options.lr
        if saved is None:
            if plan.rates:
                metric, left = self.options.metric, self._left()
                found = search_rates(self.cfg, plan, self.costs, self.directory / SEARCH, metric, self.epochs, left)
            else:
                found = Searched(lr or _default_rate(self.measured.method), (), (), plan.epochs, 0.0)
            saved = self.state.put('search', found.to_dict())
        found = Searched(**{**saved, 'tried': tuple(saved['tried']), 'scores': tuple(saved['scores'])})
        self.lr = found.lr
        if found.tried:
            note = describe_search(found, self.options.metric)
            show('search', note)
        else:
            note = 'as asked for' if lr else 'the default of the method; there was no search'
        if found.epochs != plan.epochs:
            show('', f'by the measured time the training has {_count(found.epochs, "epoch")}')
        self.cfg = self.write_config(self.measured.method, found.lr, found.epochs, note)

    def train(self) -> None:
        """Train, or continue training."""
        task = training_task(self.cfg, self.directory / TRAINING)
        where = 'done before' if task.state == 'finished' else str(task.directory / LOG)
        show('training', f'{method_label(self.measured.method)}, lr {format_rate(self.lr)}; {where}')
        keys = [self.options.metric, self._held_out_metric()]
        lines = ProgressHook(keys, held_out=self.data.held_out_label)
        if failure := run_task(task, self.directory / REPLACED, [lines]):
            raise UserError(f'{task.directory / LOG}: {failure}')
        if has_diverged(task):
            raise DivergedError(
                f'{task.directory}: training diverges at lr {format_rate(self.lr)}; give a lower --lr and another '
                '--work-dir.'
            )
        self.record = read_record(task.directory)
        self.checkpoint = best_checkpoint(task.directory)

    def evaluate(self) -> None:
        """Evaluate the weights that ID selects on every split; write ``metrics.json``."""
        out = self.directory / METRICS
        if self.state.get('evaluation') is None:
            with output_in(self.directory / TRAINING / LOG):
                metrics = test(
                    str(self.config.path),
                    str(self.checkpoint),
                    out=str(out),
                    out_item='metrics',
                    work_dir=str(self.directory / EVALUATION),
                )
            free_memory()
            self.state.put('evaluation', metrics)
        self.metrics = self.state.get('evaluation')

    def finish(self) -> Result:
        """Write the report and print where everything is."""
        report = self.directory / REPORT
        title = f'{self.model.name} on {self.data.name} (OOD: {self.data.ood_note})'
        metric = self.options.metric.partition('/')[2]
        write_report([self.directory / TRAINING], report, title=title, command=self.command, metric=metric)
        show('report', str(report))
        keys = [self.options.metric, self._held_out_metric()]
        run = self.directory / TRAINING
        seconds = self.measured.seconds + (self.state.get('search') or {}).get('seconds', 0.0)
        seconds += self.record.resources.get('seconds', 0.0)
        print(
            f'\nresult:  {metrics_text(self.metrics, keys, self.data.held_out_label)} ({self.measured.method}, lr '
            f'{format_rate(self.lr)}, epoch {self.record.selected_epoch + 1} of {len(self.record.epochs)}, '
            f'{format_duration(seconds)})\n'
            f'weights: {self.checkpoint}\n'
            f'predict: {shlex.join(["python", "tools/predict.py", str(run), "IMAGES"])}',
            flush=True,
        )
        return Result(
            self.directory, self.config.path, run, self.checkpoint, self.metrics, self.measured.method, self.lr
        )

    def write_config(self, method: str, lr: float | None = None, epochs: int | None = None, note: str = '') -> Config:
        """Write ``config.py`` and read it."""
        text = config_text(
            self.model,
            self.data,
            method,
            lr or self.options.lr or _default_rate(method),
            epochs or self.epochs,
            batch_size=self.options.batch_size,
            workers=self.options.workers if self.options.workers is not None else default_workers(),
            seed=self.options.seed,
            metric=self.options.metric,
            path=str(self.config.path),
            notes=[*self.data.lines(), *([f'Learning rate: {note}.'] if note else [])],
        )
        return self.config.write(text)

    def _left(self) -> float | None:
        """Seconds for search and training; ``None`` for no limit."""
        return None if self.options.time is None else self.options.time - self.measured.seconds

    def _held_out_metric(self) -> str:
        return 'ood' + self.options.metric.removeprefix('id')


def default_workers() -> int:
    """Processes that load images: one per core, at most four as in the benchmarks' configs."""
    return min(4, len(os.sched_getaffinity(0)))


def _default_rate(method: str) -> float:
    return load_method(method).optim_wrapper['optimizer']['lr']


def _count(number: int, what: str) -> str:
    return f'{number} {what}' if number == 1 else f'{number} {what}s'
