"""Interpolate between the pretrained and the fine-tuned weights of a run (WiSE-FT, arXiv 2109.01903)."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import pandas as pd
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..checkpoint.compatibility import misfits, pretrained_parts, warn_of_other_classes
from ..checkpoint.io import STARTED_FROM, read_content, read_weights, weights_of
from ..evaluation.selection import select_epoch
from ..inference.run import find_run, saved_by
from ..layers import in_backbone, in_head, unwrap
from ..records import FILE, read_record
from ..runner.build import build_runner
from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.format import printable
from ..utils.metrics import METRIC_LABELS
from .plots import draw_interpolation

ALPHAS = tuple(round(0.1 * i, 1) for i in range(11))
State = dict[str, torch.Tensor]


def write_wise_ft(
    run: str | os.PathLike,
    out: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    alphas: Sequence[float] = ALPHAS,
    report: Callable[[str], None] = print,
) -> dict:
    """Evaluate the interpolated weights of a run and write ``wise_ft.json``, ``wise_ft.csv`` and ``wise_ft.png``.

    Args:
        run: A run's work_dir: its config and a checkpoint.
        out: Directory for the files and the log (default: ``wise_ft`` in the run's directory).
        checkpoint: As in :func:`find_run`.
        alphas: Weights of the fine-tuned side, in 0 to 1.
        report: Called with each line of the report.

    Returns:
        dict: The content of ``wise_ft.json``: ``points`` (``alpha`` and the metrics as fractions, by alpha) and
        ``selected`` (the point with the best ID accuracy, or other ID metric of the run's ``save_best``; the smallest
        alpha on ties), ``run``, ``checkpoint``, ``selected_by`` (that metric).

    Raises:
        UserError: The run cannot be evaluated, its evaluator does not give that metric, or a file cannot be written.
    """
    run = Path(run)
    out = run / 'wise_ft' if out is None else Path(out)
    cfg, checkpoint = find_run(run, checkpoint)
    runner = evaluation_runner(cfg, out / 'log')
    pretrained, tuned = end_points(runner, cfg, checkpoint)
    key, points = saved_by(cfg), []
    for alpha, metrics in evaluate_between(runner, pretrained, tuned, sorted(set(alphas))):
        if key not in metrics:
            raise UserError(f'{cfg.filename}: val_evaluator gives no {key}; use GroupAccuracy.')
        points.append({'alpha': alpha, **metrics})
        report(f'alpha {alpha:g}: {METRIC_LABELS.get(key, key)} {metrics[key]:.2%}')
    selected = points[select_epoch(points, id_metric=key)]
    result = {
        'run': str(run),
        'checkpoint': str(checkpoint),
        'selected_by': key,
        'selected': selected,
        'points': points,
    }
    table = pd.DataFrame(points)
    write_text(out / 'wise_ft.csv', table.to_csv(index=False))
    write_text(out / 'wise_ft.json', json.dumps(result, indent=1) + '\n')
    draw_interpolation(points, selected['alpha'], out / 'wise_ft.png', key)

    shown = [one for one in dict.fromkeys((key, *METRIC_LABELS)) if one in table]
    report('\n' + (100 * table.set_index('alpha')[shown]).to_string(float_format='{:.2f}'.format))
    report(f'\nselected by {key}: alpha {selected["alpha"]:g}')
    if points[-1]['alpha'] == 1 and (line := _compare_with_record(run, points[-1])):
        report(line)
    report(f'written: {out}/wise_ft.json, wise_ft.csv and wise_ft.png')
    return result


def _compare_with_record(run: Path, metrics: dict[str, float]) -> str | None:
    """Whether alpha 1 gave the metrics of the run's record; ``None`` without a record."""
    if not (run / FILE).is_file():
        return None
    try:
        recorded = read_record(run).selected or {}
    except UserError as error:
        return printable(f'warning: alpha 1 is not compared with the run record: {error}')
    differences = {key: abs(metrics[key] - value) for key, value in recorded.items() if key in metrics}
    if not differences:
        return None
    key = max(differences, key=differences.get)
    if differences[key] <= 1e-6:
        return 'alpha 1 reproduces the metrics of the run record.'
    return printable(
        f'warning: at alpha 1 {key} is {metrics[key]:.4f}, in the run record {recorded[key]:.4f}; the checkpoint, the '
        'data or the device differs from that of training.'
    )


def evaluation_runner(cfg: Config, work_dir: str | Path) -> Runner:
    """Build a runner that evaluates as the run did during training and writes only its log.

    Args:
        cfg: The run's config.
        work_dir: Directory for the log.

    Raises:
        UserError: The config has no validation loop.
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
    """Read the weights at alpha 0 and 1, in float32.

    Alpha 0 is what training started from: the file of ``load_from``, also if the run was resumed later, over what the
    model's own initialisation gives. Tensors that no file gave and that are drawn at random, usually the head, have the
    run's value at alpha 0 too. After a probe (``load_from`` of a checkpoint with a head that fits) alpha 0 has the
    probe's head.

    Args:
        runner: Output of :func:`evaluation_runner`; its model is initialised here.
        cfg: The run's config; its ``load_from`` names the weights that training started from.
        checkpoint: The run's checkpoint.

    Returns:
        tuple: State dicts ``(pretrained, tuned)`` on the CPU.

    Raises:
        UserError: The checkpoint does not fit the model, or its backbone starts from random weights.
    """
    content = read_content(str(checkpoint))
    tuned = _float32(weights_of(content))
    wrong = misfits(runner.model, tuned)
    if wrong:
        raise UserError(
            f'{checkpoint}: does not fit the config of the run: {wrong[0]}; name another with --checkpoint.'
        )
    dataset = runner.val_loop.dataloader.dataset
    warn_of_other_classes(str(checkpoint), content, (getattr(dataset, 'metainfo', None) or {}).get('classes'))
    start = _start_of(cfg, content)
    (first, given), (second, _) = (_initial_state(runner, cfg, start, seed) for seed in (0, 1))
    head = [name for name in first if in_head(name)]
    started_with_head = set(head) <= given
    own = {
        name
        for name in first
        if (in_head(name) and not started_with_head) or not torch.equal(first[name], second[name])
    }
    total, drawn = (
        sum(first[name].numel() for name in first if in_backbone(name) and (all_ or name in own))
        for all_ in (True, False)
    )
    if 2 * drawn > total:
        raise UserError(
            f'{cfg.filename}: the backbone starts from random weights, not from pretrained ones; '
            'set init_cfg, pretrained or load_from as in training.'
        )
    return {name: tuned[name] if name in own else value for name, value in first.items()}, tuned


def _start_of(cfg: Config, content: dict) -> str | None:
    """The ``load_from`` of the run when it was new: the config of a resumed run names its own checkpoint."""
    if not cfg.get('resume'):
        return cfg.get('load_from')
    return (content.get('message_hub') or {}).get('runtime_info', {}).get(STARTED_FROM)


def _initial_state(runner: Runner, cfg: Config, start: str | None, seed: int) -> tuple[State, set[str]]:
    """The state that training started from, and the names that a file gave; the seed determines what is random."""
    torch.manual_seed(seed)
    model = runner.build_model(deepcopy(cfg.model))
    model.init_weights()
    state = _float32({name: value.detach().cpu().clone() for name, value in model.state_dict().items()})
    given = set()
    for name, _, path, prefix in pretrained_parts(model):
        inside, outside = (f'{part.rstrip(".")}.' if part else '' for part in (name, prefix))
        own = {f'{inside}{key.removeprefix(outside)}': value for key, value in read_weights(path).items()
               if key.startswith(outside)}  # fmt: skip
        given |= {key for key in own.keys() & state.keys() if own[key].shape == state[key].shape}
    if start:
        loaded = _float32(read_weights(start))
        fitting = {key for key in loaded.keys() & state.keys() if loaded[key].shape == state[key].shape}
        state.update({key: loaded[key] for key in fitting})
        given |= fitting
    return state, given


def _float32(weights: Mapping[str, torch.Tensor]) -> State:
    """Weights as the model computes with them; a checkpoint may hold them in half precision."""
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def interpolate(pretrained: State, tuned: State, alpha: float) -> State:
    """``(1 - alpha) pretrained + alpha tuned``; exact at 0, at 1 and where both agree; integers come from ``tuned``."""
    if alpha in (0, 1):
        return tuned if alpha else pretrained
    return {
        name: torch.lerp(pretrained[name], value, alpha) if value.is_floating_point() else value
        for name, value in tuned.items()
    }


def evaluate_between(
    runner: Runner, pretrained: State, tuned: State, alphas: Sequence[float] = ALPHAS
) -> Iterator[tuple[float, dict[str, float]]]:
    """Evaluate the interpolated weights at each alpha.

    Args:
        runner: Output of :func:`evaluation_runner`.
        pretrained, tuned: Output of :func:`end_points`.
        alphas: Weights of the fine-tuned side, in 0 to 1.

    Yields:
        tuple: ``(alpha, metrics)`` with the metrics of the run's evaluator (fractions).
    """
    model = unwrap(runner.model)
    for alpha in alphas:
        model.load_state_dict(interpolate(pretrained, tuned, alpha))
        yield alpha, {key: float(value) for key, value in runner.val_loop.run().items()}
