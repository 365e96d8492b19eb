"""How the time of ``tools/finetune.py`` is divided between the search for a learning rate and the training.

The rule. A run of the search has 1/6 of the training's epochs, rounded, at least one: with the six rates of a grid the
search costs about as much as the training. Without a limit every rate is tried. With one:

1. The training gets the most epochs, up to those asked for, that fit into half of the time, but at least one.
2. The search gets the rest: six rates, else five, four or three, in runs as long as fit. They are tried from the
   middle of the grid outwards.
3. If not even three runs of one epoch fit, there is no search. The rate is that of the method's part, and the training
   gets the most epochs that fit into all of the time.
4. After the search the training's epochs are counted again from what the search has measured.

All of this is a pure function of measured seconds, which the work directory records: the same numbers give the same
plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..paper.grids import GRIDS, format_rate
from ..utils.errors import UserError
from ..utils.format import format_duration

DEFAULT_EPOCHS = 20  # the paper's on Living-17 and Waterbirds
RUNS_PER_TRAINING = 6  # runs of the search that are as long as the training together
FEWEST_RATES = 3
EVALUATION_SHARE = 1 / 3  # of a training step: the forward pass of three equal passes
RESERVE = 0.95  # of the time is planned; the rest is for writing checkpoints and the report


@dataclass(frozen=True)
class Costs:
    """Measured seconds and numbers of images.

    Attributes:
        train_image: Seconds per image of training.
        eval_image: Seconds per image of an evaluation.
        train_images, id_images, held_out_images: Images of the training split, of the split that selects, and of the
            others that are evaluated.
    """

    train_image: float
    eval_image: float
    train_images: int
    id_images: int
    held_out_images: int

    @property
    def search_epoch(self) -> float:
        """Seconds of an epoch of the search: training and the evaluation in distribution."""
        return self.train_image * self.train_images + self.eval_image * self.id_images

    @property
    def epoch(self) -> float:
        """Seconds of an epoch of the training, which evaluates everything."""
        return self.search_epoch + self.eval_image * self.held_out_images


@dataclass(frozen=True)
class TimePlan:
    """What will run.

    Attributes:
        rates: Learning rates of the search, in the order in which they are tried; empty without a search.
        search_epochs: Epochs of each of its runs.
        epochs: Epochs of the training.
        search_seconds, training_seconds: Predicted.
        note: What a short time has changed; ``''`` if nothing.
    """

    rates: tuple[float, ...]
    search_epochs: int
    epochs: int
    search_seconds: float
    training_seconds: float
    note: str = ''


def image_costs(step: float, full_step: float, loading: float, workers: int) -> tuple[float, float]:
    """Seconds per image of training and of an evaluation.

    With workers the slower of computing and loading counts, without them their sum.

    Args:
        step: Computing in a training step of the method.
        full_step: Computing in a step in which everything trains; an evaluation takes ``EVALUATION_SHARE`` of it.
        loading: Reading and transforming in one process.
        workers: Processes that load images.
    """
    computing = (step, EVALUATION_SHARE * full_step)
    if workers:
        return tuple(max(seconds, loading / workers) for seconds in computing)
    return tuple(seconds + loading for seconds in computing)


def rates_to_try(method: str) -> list[float]:
    """The rates of a method's grid from the middle outwards, the smaller of two first.

    A search that the time cuts short has tried the middle of the grid.
    """
    grid = sorted(GRIDS[method])
    middle = (len(grid) - 1) / 2
    return sorted(grid, key=lambda rate: (abs(grid.index(rate) - middle), rate))


def plan_time(
    costs: Costs,
    rates: Sequence[float],
    epochs: int = DEFAULT_EPOCHS,
    seconds: float | None = None,
) -> TimePlan:
    """Divide the time, by the rule of this module.

    Args:
        costs: Measured seconds.
        rates: The rates that may be searched, in the order in which they are tried; one or none: no search.
        epochs: The most epochs of the training.
        seconds: What is left of the time. Default: no limit.

    Raises:
        UserError: The time is too short for one epoch of training.
    """
    length = _search_length(epochs)
    wanted = list(rates) if len(rates) > 1 else []
    if seconds is None:
        return _plan(costs, wanted, length, epochs)
    limit = RESERVE * seconds
    if costs.epoch > limit:
        raise UserError(
            f'--time: one epoch of training takes about {format_duration(costs.epoch)} and '
            f'{format_duration(max(limit, 0))} are left; give more time, a smaller model or a smaller --image-size.'
        )
    whole = _plan(costs, wanted, length, epochs)
    if whole.search_seconds + whole.training_seconds <= limit:
        return whole
    if wanted:
        fitting = max(1, min(epochs, int(limit / 2 / costs.epoch)))
        left, longest = limit - fitting * costs.epoch, _search_length(fitting)
        for count in range(len(wanted), min(FEWEST_RATES, len(wanted)) - 1, -1):
            length = min(longest, int(left / (count * costs.search_epoch)))
            if length >= 1:
                return _plan(costs, wanted[:count], length, fitting, _shortened(epochs, fitting, wanted, count))
    fitting = min(epochs, int(limit / costs.epoch))
    note = 'the time is too short to search for a learning rate; the default of the method is taken' if wanted else ''
    less = _shortened(epochs, fitting, [], 0)
    return _plan(costs, [], 0, fitting, '; '.join(filter(None, [note, less])))


def epochs_that_fit(epoch_seconds: float, epochs: int, seconds: float | None) -> int:
    """Epochs of the training after the search, from what an epoch was measured to take; at least one.

    Args:
        epoch_seconds: Measured seconds of an epoch with all of its evaluations.
        epochs: The most.
        seconds: What is left of the time; ``None`` for no limit.
    """
    if seconds is None or epoch_seconds <= 0:
        return epochs
    return max(1, min(epochs, int(RESERVE * seconds / epoch_seconds)))


def _search_length(epochs: int) -> int:
    return max(1, round(epochs / RUNS_PER_TRAINING))


def _plan(costs: Costs, rates: Sequence[float], length: int, epochs: int, note: str = '') -> TimePlan:
    search = len(rates) * length * costs.search_epoch
    return TimePlan(tuple(rates), length if rates else 0, epochs, search, epochs * costs.epoch, note)


def _shortened(epochs: int, fitting: int, rates: Sequence[float], count: int) -> str:
    parts = [f'{fitting} of {epochs} epochs'] if fitting < epochs else []
    if count < len(rates):
        parts.append(f'{count} of {len(rates)} rates ({", ".join(map(format_rate, sorted(rates[:count])))})')
    return f'the time is enough for {" and ".join(parts)}' if parts else ''


def search_may_go_on(spent: float, runs: int, seconds: float | None) -> bool:
    """Whether the search may try another rate: it gets half of the time, and its runs take as long as those so far.

    Args:
        spent: Seconds of the runs so far.
        runs: How many; the first one is always tried.
        seconds: Seconds for search and training; ``None`` for no limit.
    """
    return runs == 0 or seconds is None or spent + spent / runs <= seconds / 2
