"""The profile of a run as a table for the terminal, as JSON and as a figure; the logic of ``tools/profile.py``."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from ..utils.errors import check_parent
from ..utils.files import write_text
from ..utils.format import format_bytes, format_duration
from ..utils.plotting import DARK_GREY, GREY, LIGHT_GREY, import_pyplot, save_figure, style_axes
from .run_limits import STEP, rate_text
from .run_profile import PARTS, TOLERANCE, RunProfile, profile_run

_HEADER = ('part', 'seconds', 'share', 'per unit', 'limit', 'limit follows from')
_DETAIL = 0.005  # of the wall time: smaller details are not listed
# Okabe and Ito; the parts of a step in the order of time.
_COLOURS = {
    'start-up': GREY,
    'data': '#d55e00',
    'copy': '#cc79a7',
    'forward': '#56b4e9',
    'backward': '#0072b2',
    'optimizer': '#009e73',
    'hooks': '#f0e442',
    'loop': '#000000',
    'evaluation': '#e69f00',
    'checkpoint': LIGHT_GREY,
}


def write_profile(
    config: str,
    out: str | os.PathLike | None = None,
    json_path: str | os.PathLike | None = None,
    iterations: int = 30,
    evaluated: int = 256,
    warmup: int = 3,
    cfg_options: dict | None = None,
    began: float | None = None,
    report: Callable[[str], None] = print,
) -> RunProfile:
    """Profile a run, report the table, and write it with its figure.

    Args:
        config: Config file.
        out: Directory for ``profile.png`` and ``profile.md``. Default: ``work_dirs/profile/CONFIG_NAME``.
        json_path: File for the numbers.
        iterations, evaluated, warmup, cfg_options, began: See
            :func:`ftsgd_plugin.profiling.run_profile.profile_run`.
        report: Gets the lines.

    Raises:
        UserError: As ``profile_run``; the directory of ``json_path`` is missing, or Matplotlib is.
    """
    if json_path is not None:
        check_parent(str(json_path), f'--json {json_path}')
    import_pyplot()  # a missing Matplotlib is reported before the measurement
    directory = Path(out or Path('work_dirs/profile') / Path(config).stem)
    directory.mkdir(parents=True, exist_ok=True)
    report(f'{config}: at most {iterations} training steps, {evaluated} images of evaluation')
    profile = profile_run(config, directory, iterations, evaluated, warmup, cfg_options, began)
    lines = profile_lines(profile)
    for line in lines:
        report(line)
    draw_profile(profile, directory / 'profile.png')
    write_text(directory / 'profile.md', '\n'.join(['```text', *lines, '```', '', '![](profile.png)', '']))
    if json_path is not None:
        write_text(json_path, json.dumps(profile.to_dict(), indent=1) + '\n')
    report(f'written: {directory}/profile.png')
    return profile


def profile_lines(profile: RunProfile) -> list[str]:
    """The table, what it rests on, and what to change first."""
    rows = []
    for part in PARTS:
        seconds = profile.part(part)
        if not seconds:
            continue
        count, unit = _unit(profile, part)
        limit = profile.limits.get(part)
        rows.append(
            (
                part,
                f'{seconds:.2f}',
                f'{seconds / profile.wall_seconds:.1%}',
                f'{_milliseconds(seconds / count)} / {unit}' if count else '',
                _milliseconds(limit.seconds) if limit else '',
                limit.reason if limit else '',
            )
        )
        details = {key: value for key, value in profile.seconds.items() if key.startswith(f'{part}/')}
        for key, value in sorted(details.items(), key=lambda item: -item[1]):
            if value >= _DETAIL * profile.wall_seconds and len(details) > 1:
                name = '  ' + key.partition('/')[2]
                per_unit = _milliseconds(value / count) if count else ''
                rows.append((name, f'{value:.2f}', f'{value / profile.wall_seconds:.1%}', per_unit, '', ''))
    table = tabulate(rows, _HEADER, tablefmt='plain', disable_numparse=True, preserve_whitespace=True)
    return [*(line.rstrip() for line in table.splitlines()), '', *_summary(profile)]


def _summary(profile: RunProfile) -> list[str]:
    total, peaks = sum(profile.seconds.values()), profile.peaks
    lines = [
        f'parts: {total:.2f} s of {profile.wall_seconds:.2f} s wall time ({total / profile.wall_seconds:.2%}, at least '
        f'{1 - TOLERANCE:.0%}); measuring took {profile.probe_seconds / profile.wall_seconds:.3%} of it',
        f'device: {peaks.device}; {rate_text(peaks.flops)} ({peaks.precision}), '
        f'{format_bytes(peaks.bandwidth)}/s: {peaks.source}',
        f'training: {profile.images / profile.steps / profile.step_seconds:,.1f} images/s over {profile.steps} steps'
        + ('' if profile.utilisation is None else f'; {profile.utilisation:.0%} of the peak (model FLOPs utilisation)'),
    ]
    whole = sum(profile.whole_run.values())
    shares = sorted(profile.whole_run.items(), key=lambda item: -item[1])
    listed = ', '.join(f'{part} {value / whole:.0%}' for part, value in shares if value >= 0.01 * whole)
    lines += [f'the whole run: about {format_duration(whole)}: {listed}', *profile.notes, f'first: {profile.advice}']
    return lines


def _unit(profile: RunProfile, part: str) -> tuple[int, str]:
    """How often a part happened, and what it is counted by."""
    if part in STEP:
        return profile.steps, 'step'
    if part == 'evaluation':
        return profile.evaluated, 'image'
    return (profile.checkpoints, 'checkpoint') if part == 'checkpoint' else (0, '')


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f'{value:,.0f} ms' if value >= 99.95 else f'{value:.3g} ms'


def draw_profile(profile: RunProfile, path: str | os.PathLike) -> None:
    """Draw the predicted whole run and a step with its limits; the file is written atomically.

    Args:
        profile: What :func:`ftsgd_plugin.profiling.run_profile.profile_run` returned.
        path: PNG file.
    """
    plt = import_pyplot()
    figure, (run, step) = plt.subplots(2, 1, figsize=(9, 5.6), height_ratios=(1, 2.2), layout='constrained')
    whole, left = sum(profile.whole_run.values()), 0.0
    for part in PARTS:
        seconds = profile.whole_run.get(part, 0.0)
        run.barh(0, seconds, 0.6, left, color=_COLOURS[part], label=part)
        if seconds >= 0.05 * whole:
            colour = 'white' if part in ('backward', 'loop', 'optimizer', 'data') else 'black'
            run.text(left + seconds / 2, 0, f'{seconds / whole:.0%}', ha='center', va='center', color=colour)
        left += seconds
    run.set(xlim=(0, whole), ylim=(-0.5, 0.5), yticks=[], xlabel='seconds')
    run.set_title(f'the whole run, predicted: about {format_duration(whole)}', loc='left', fontsize=10)
    run.legend(ncols=5, fontsize=8, frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.42))
    parts = [part for part in STEP if profile.part(part)]
    for y, part in enumerate(parts):
        value = 1e3 * profile.part(part) / profile.steps
        step.barh(y, value, 0.62, color=_COLOURS[part])
        text = _milliseconds(value / 1e3)
        if limit := profile.limits.get(part):
            step.plot([1e3 * limit.seconds] * 2, [y - 0.4, y + 0.4], color=DARK_GREY, lw=2)
            text += f' (limit {_milliseconds(limit.seconds)})'
        step.annotate(text, (max(value, 0.0), y), (5, 0), textcoords='offset points', va='center', fontsize=8)
    step.set_yticks(range(len(parts)), parts)
    step.invert_yaxis()
    most = max(1e3 * profile.part(part) / profile.steps for part in parts)
    step.set(xlim=(0, 1.3 * most), xlabel='ms per training step; line: the least that the device or data allow')
    title = f'a step: {_milliseconds(profile.step_seconds)}, {profile.peaks.device}'
    if profile.utilisation is not None:
        title += f', {profile.utilisation:.0%} of the peak'
    step.set_title(title, loc='left', fontsize=10)
    for axes in (run, step):
        style_axes(axes)
    run.spines['left'].set_visible(False)
    save_figure(figure, path)
