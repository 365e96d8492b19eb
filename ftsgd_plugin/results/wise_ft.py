"""Between the pretrained and the fine-tuned weights of a run (WiSE-FT, arXiv 2109.01903)."""

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from ..checkpoint.compatibility import misfits
from ..checkpoint.io import read_weights
from ..runner.build import build_runner, read_config
from ..utils.errors import UserError

ALPHAS = tuple(round(0.1 * i, 1) for i in range(11))
State = dict[str, torch.Tensor]


def find_run(folder: str | Path, checkpoint: str | Path | None = None) -> tuple[Config, Path]:
    """The config that a run dumped and the checkpoint to take.

    Args:
        folder: A run's work_dir.
        checkpoint: Another checkpoint than ``best_id_accuracy_*.pth`` or, without one, the last ``epoch_*.pth``.

    Raises:
        UserError: The folder has no config or no checkpoint.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder; name the work_dir of a run.')
    configs = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise UserError(f'{folder}: no config (*.py); name the work_dir that tools/train.py wrote.')
    if checkpoint is None:
        found = [
            (path.name.startswith('best'), int(number[1]), path)
            for path in folder.glob('*.pth')
            if (number := re.fullmatch(r'(?:best_id_accuracy_)?(?:epoch|iter)_(\d+)\.pth', path.name))
        ]
        if not found:
            raise UserError(f'{folder}: no best_id_accuracy_*.pth or epoch_*.pth; name one with --checkpoint.')
        checkpoint = max(found)[2]
    return read_config(str(configs[-1])), Path(checkpoint)


def evaluation_runner(cfg: Config, work_dir: str | Path) -> Runner:
    """A runner that evaluates as the run did while it trained, and writes nothing but its log.

    Args:
        cfg: The run's config.
        work_dir: Folder for the log.

    Raises:
        UserError: The config has no validation.
    """
    if not all(cfg.get(f'val_{part}') is not None for part in ('dataloader', 'evaluator', 'cfg')):
        raise UserError(f'{cfg.filename}: no val_dataloader, val_evaluator or val_cfg; this run cannot be evaluated.')
    cfg = deepcopy(cfg)
    cfg.work_dir = str(work_dir)
    cfg.load_from, cfg.resume, cfg.launcher = None, False, 'none'
    cfg.default_hooks.checkpoint = None
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg.pop(part, None)  # no training data, no mixed precision that needs a GPU
    if not torch.cuda.is_available():
        cfg.val_dataloader.pin_memory = False
    return build_runner(cfg)


def end_points(runner: Runner, cfg: Config, checkpoint: str | Path) -> tuple[State, State]:
    """The weights at alpha 0 and 1.

    What has no pretrained value keeps the run's own at alpha 0 too: the head, and what the model draws at random.

    Args:
        runner: Of :func:`evaluation_runner`; its model is initialised here.
        cfg: The run's config, for ``load_from`` (weights that training started from).
        checkpoint: The run's checkpoint.

    Returns:
        tuple: State dicts on the CPU.

    Raises:
        UserError: The checkpoint does not fit the model, or its backbone starts from random weights.
    """
    tuned = read_weights(str(checkpoint))
    wrong = misfits(runner.model, tuned)
    if wrong:
        raise UserError(
            f'{checkpoint}: does not fit the config of the run: {wrong[0]}; name another with --checkpoint.'
        )
    first, second = (_initial_state(runner, cfg, seed) for seed in (0, 1))
    own = {name for name in first if name.startswith('head.') or not torch.equal(first[name], second[name])}
    total, drawn = (
        sum(first[name].numel() for name in first if name.startswith('backbone.') and (all_ or name in own))
        for all_ in (True, False)
    )
    if 2 * drawn > total:
        raise UserError(
            f'{cfg.filename}: the backbone starts from random weights, not from pretrained ones; '
            'set init_cfg, pretrained or load_from as in training.'
        )
    return {name: tuned[name] if name in own else value for name, value in first.items()}, tuned


def _initial_state(runner: Runner, cfg: Config, seed: int) -> State:
    """The state that training started from, with random parts by the seed."""
    torch.manual_seed(seed)
    model = runner.build_model(deepcopy(cfg.model))
    model.init_weights()
    state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    if cfg.get('load_from') and not cfg.get('resume'):
        loaded = read_weights(cfg.load_from)
        state.update({name: value for name, value in loaded.items() if name in state})
    return state


def interpolate(pretrained: State, tuned: State, alpha: float) -> State:
    """``(1 - alpha) pretrained + alpha tuned``, exact at 0 and 1 and where both agree; integers as tuned."""
    if alpha in (0, 1):
        return tuned if alpha else pretrained
    return {
        name: torch.lerp(pretrained[name], value, alpha) if value.is_floating_point() else value
        for name, value in tuned.items()
    }


def evaluate_between(
    runner: Runner, pretrained: State, tuned: State, alphas: Sequence[float] = ALPHAS
) -> Iterator[tuple[float, dict[str, float]]]:
    """Evaluate the interpolated weights one after the other.

    Args:
        runner: Of :func:`evaluation_runner`.
        pretrained, tuned: Of :func:`end_points`.
        alphas: Weights of the fine-tuned side, in 0 to 1.

    Yields:
        tuple: ``(alpha, metrics)`` with the metrics of the run's evaluator (fractions).
    """
    model: nn.Module = getattr(runner.model, 'module', runner.model)
    for alpha in alphas:
        model.load_state_dict(interpolate(pretrained, tuned, alpha))
        yield alpha, {key: float(value) for key, value in runner.val_loop.run().items()}
