"""A Slurm array script: one task of the array is one run by its index."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.paths import tool_path
from .plan import Run

SCRIPT = 'sweep.sh'
LISTING = 'runs.txt'
ROOT = Path(__file__).resolve().parents[2]
_TEXT = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --signal=B:TERM@120
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --output={output}
#SBATCH --open-mode=append
# Written by tools/sweep.py: {count} runs, listed by index in {listing}.
#
#     sbatch --partition=NAME --time=HH:MM:SS {script}
#     sbatch ... --array=3,7-9 {script}            # some of them
#     bash {script} 3                              # one of them, here
#     OFFSET=1000 sbatch ... --array=0-{rest} {script}   # the rest, where Slurm's MaxArraySize is 1001
#
# Submit it again to continue: finished runs end at once, others are resumed from their checkpoint. A run saves one two
# minutes ahead of the time limit.
set -euo pipefail
index=$(( ${{SLURM_ARRAY_TASK_ID:-${{1:?give the index of a run}}}} + ${{OFFSET:-0}} ))
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{cpus}}}"
export PYTHONPATH={root}"${{PYTHONPATH:+:$PYTHONPATH}}"
cd {cwd}
exec {command} --index "$index"
"""


def write_tasks(
    slurm: str | os.PathLike,
    runs: Sequence[Run],
    plan: str | os.PathLike,
    out: str | os.PathLike,
    options: Sequence[str],
    cfg_options: dict | None = None,
    gpus: float | None = None,
    cpus: int | None = None,
) -> None:
    """Write the Slurm array script of a sweep, and print how it is started.

    Args:
        slurm: Directory of the script.
        runs: In the order of their indices.
        plan, out: The plan file and the directory of the runs.
        options: Further options of ``tools/sweep.py`` for every task.
        cfg_options: Overrides of every run's config.
        gpus, cpus: See :func:`write_script`.
    """
    script = write_script(slurm, runs, command_line(plan, out, options, cfg_options), gpus, cpus)
    print(f'{len(runs)} runs; start them with: sbatch --partition=NAME --time=HH:MM:SS {script}')


def command_line(
    plan: str | os.PathLike, out: str | os.PathLike, options: Sequence[str], cfg_options: dict | None = None
) -> list[str]:
    """What follows the interpreter to run a sweep with these options."""
    words = [tool_path('sweep'), str(plan), '--out', str(out), *options]
    if cfg_options:
        words += ['--cfg-options', *(f'{key}={_option(value)}' for key, value in cfg_options.items())]
    return words


def _option(value) -> str:
    """A value as ``--cfg-options`` reads it."""
    if isinstance(value, list | tuple):
        inner = ','.join(map(_option, value))
        return f'[{inner}]' if isinstance(value, list) else f'({inner})'
    return str(value)


def write_script(
    directory: str | os.PathLike, runs: Sequence[Run], arguments: Sequence[str], gpus: float | None, cpus: int | None
) -> Path:
    """Write ``sweep.sh`` and ``runs.txt``.

    Args:
        directory: Directory of the script, created if it is missing; the tasks' logs are written below it.
        runs: In the order of the indices.
        arguments: Command line of ``tools/sweep.py`` for the sweep, without ``--index``.
        gpus: GPUs of a task. Default: 1.
        cpus: CPU cores of a task. Default: 5.

    Returns:
        Path: The script.

    Raises:
        UserError: ``gpus`` is a fraction, the directory cannot be written, or ``#SBATCH`` lines cannot name it.
    """
    gpus = 1 if gpus is None else gpus
    if gpus != int(gpus):
        raise UserError(f'--gpus-per-run {gpus:g}: Slurm allocates whole GPUs; give 1 or 0, or use Ray.')
    directory = Path(directory).absolute()
    check_directive_path(directory)
    script, listing, logs = directory / SCRIPT, directory / LISTING, directory / 'logs'
    logs.mkdir(parents=True, exist_ok=True)
    write_text(listing, ''.join(f'{i} {run.name}\n' for i, run in enumerate(runs)))
    write_text(
        script,
        _TEXT.format(
            name=directive(directory.name),
            last=len(runs) - 1,
            rest=max(len(runs) - 1001, 0),
            count=len(runs),
            cpus=cpus or 5,
            gpus=f'#SBATCH --gpus-per-task={int(gpus)}\n' if gpus else '',
            output=directive(f'{pattern(logs)}/%a.txt'),
            listing=listing,
            script=shlex.quote(str(script)),
            root=shlex.quote(str(ROOT)),
            cwd=shlex.quote(os.getcwd()),
            command=shlex.join([sys.executable, *arguments]),
        ),
    )
    return script


def check_directive_path(directory: Path) -> None:
    """Refuse a directory that ``#SBATCH`` lines cannot name.

    Raises:
        UserError: It has a quote, a backslash or a control character.
    """
    if bad := [letter for letter in str(directory) if not letter.isprintable() or letter in '"\\']:
        raise UserError(
            f'--slurm {str(directory)!r}: #SBATCH lines cannot have {bad[0]!r} in a path; choose another directory.'
        )


def directive(value: str) -> str:
    """A value of an ``#SBATCH`` line, which ends at the first blank unless it is quoted."""
    return f'"{value}"'


def pattern(path: Path) -> str:
    """A path in a file name pattern, in which ``%`` begins a replacement symbol and ``%%`` is the character."""
    return str(path).replace('%', '%%')
