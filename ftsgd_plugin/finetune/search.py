"""The search for a learning rate: short runs over the grid of a method, compared in distribution only."""

from dataclasses import asdict, dataclass
from pathlib import Path

from mmengine.config import Config

from ..paper.grids import format_rate
from ..records import RunRecord, read_record
from ..sweep.ray_backend import LOG
from ..utils.errors import DivergedError, UserError
from ..utils.format import format_duration
from .progress import ProgressHook, metrics_text, show
from .runs import REPLACED, best_rate, run_task, search_task
from .time_plan import Costs, TimePlan, epochs_that_fit, search_may_go_on


@dataclass(frozen=True)
class Searched:
    """The outcome of a search.

    Attributes:
        lr: The best rate.
        tried: The rates that were tried, in this order.
        scores: The metric of each, at its best epoch; ``None`` for one that diverged.
        epochs: Epochs of the training, counted again from the measured time.
        seconds: What the search has taken.
    """

    lr: float
    tried: tuple[float, ...]
    scores: tuple[float | None, ...]
    epochs: int
    seconds: float

    def to_dict(self) -> dict:
        """Plain JSON data."""
        return asdict(self)


def search_rates(
    cfg: Config,
    plan: TimePlan,
    costs: Costs,
    directory: Path,
    metric: str,
    epochs: int,
    left: float | None = None,
) -> Searched:
    """Train with the rates of a plan, one after another, and take the best by ID; finished runs are kept.

    Args:
        cfg: The config of the training.
        plan: The plan.
        costs: The measurements that it was made from.
        directory: Where the runs are.
        metric: The ID metric that selects.
        epochs: The epochs that were asked for.
        left: Seconds for search and training; ``None`` for no limit.

    Raises:
        UserError: A run fails, or all have diverged.
    """
    records: dict[float, RunRecord] = {}
    spent = 0.0
    for number, lr in enumerate(plan.rates, 1):
        if not search_may_go_on(spent, len(records), left):
            show('search', f'stopped after {len(records)} of {len(plan.rates)} rates: half of the time is spent')
            break
        label = f'[{number}/{len(plan.rates)}] lr {format_rate(lr)}'
        task = search_task(cfg, directory, lr, plan.search_epochs)
        bar = ProgressHook((), lines=False, label=label)
        if failure := run_task(task, directory.parent / REPLACED, [bar], keep_checkpoints=False):
            raise UserError(f'{task.directory / LOG}: {failure}')
        records[lr] = record = read_record(task.directory)
        seconds = record.resources.get('seconds', 0.0)
        spent += seconds
        outcome = metrics_text(record.selected, [metric]) if record.selected else record.status
        show('search', f'{label}  {outcome}  {format_duration(seconds)}')
    best = best_rate(records, metric)
    if best is None:
        tried = ', '.join(map(format_rate, sorted(records)))
        raise DivergedError(
            f'{directory}: training diverges at every learning rate ({tried}); give a lower --lr and another '
            '--work-dir.'
        )
    scores = tuple(record.selected[metric] if record.status == 'finished' else None for record in records.values())
    return Searched(best, tuple(records), scores, _epochs(plan, costs, spent, len(records), epochs, left), spent)


def _epochs(plan: TimePlan, costs: Costs, spent: float, runs: int, epochs: int, left: float | None) -> int:
    """Epochs of the training, from what an epoch of the search has taken."""
    if left is None:
        return plan.epochs
    slower = spent / (runs * plan.search_epochs) / costs.search_epoch
    return epochs_that_fit(slower * costs.epoch, epochs, left - spent)


def describe_search(searched: Searched, metric: str) -> str:
    """The result in a sentence, with what the user may want to change.

    Args:
        searched: The outcome.
        metric: The metric that selected.
    """
    ends = {min(searched.tried): 'smallest', max(searched.tried): 'largest'}
    text = f'best learning rate {format_rate(searched.lr)} by {metric}'
    if len(searched.tried) > 1 and searched.lr in ends:
        text += f', the {ends[searched.lr]} that was tried (--lr takes any other)'
    return text
