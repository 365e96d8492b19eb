"""A Slurm script that starts Ray on the machines of one job and runs a sweep there."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..utils.files import write_text
from .slurm import ROOT, check_directive_path, directive, pattern

SCRIPT = 'ray.sh'
_TEXT = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --signal=B:TERM@180
#SBATCH --output={output}
#SBATCH --open-mode=append
# Written by tools/sweep.py: {count} runs on Ray, which this job starts on all of its machines.
#
#     sbatch --partition=NAME --time=HH:MM:SS --gpus-per-node=N {script}
#     sbatch ... --nodes=8 {script}                # more machines
#
# Submit it again to continue. --no-kill: a machine that is lost ends neither the job nor the other machines, and Ray
# starts its runs again on those, from their checkpoints. Ahead of the time limit every run saves a checkpoint.
set -uo pipefail
export PYTHONPATH={root}"${{PYTHONPATH:+:$PYTHONPATH}}"
# Whoever reaches the port of a Ray cluster without a token runs code on it.
export RAY_AUTH_MODE="${{RAY_AUTH_MODE:-token}}"
[ "$RAY_AUTH_MODE" != token ] || {ray} get-auth-token --generate > /dev/null
cd {cwd}
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# This script runs on the first machine.
ip=$({python} -c 'import ray.util; print(ray.util.get_node_ip_address())')
address="$ip:$(( 20000 + SLURM_JOB_ID % 10000 ))"

on() {{  # on MACHINE COMMAND... &: a step of its own, with all cores and GPUs of the machine
    exec srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task="$SLURM_CPUS_ON_NODE" "${{@:2}}"
}}

on "${{machines[0]}}" {ray} start --head --node-ip-address="$ip" --port="${{address##*:}}" --block \\
    --include-dashboard=false --disable-usage-stats &
for (( attempt = 0; ; attempt++ )); do
    {ray} status --address="$address" > /dev/null 2>&1 && break
    (( attempt < 60 )) || {{ echo "error: Ray does not start on ${{machines[0]}}" >&2; kill $(jobs -p); exit 1; }}
    sleep 1
done
for machine in "${{machines[@]:1}}"; do
    on "$machine" {ray} start --address="$address" --block --disable-usage-stats &
done

driver= stopped=
trap 'stopped=1; [ -z "$driver" ] || kill -TERM $driver' TERM  # it ends the runs, which save a checkpoint
{command} --address "$address" &
driver=$!
[ -z "$stopped" ] || kill -TERM $driver
code=0
wait $driver || code=$?
while [ -n "$stopped" ]; do  # the trap has ended the wait, not the driver
    stopped=
    code=0
    wait $driver || code=$?
done
trap - TERM
kill $(jobs -p) 2> /dev/null
exit $code
"""


def write_ray_script(
    directory: str | os.PathLike, nodes: int, count: int, arguments: Sequence[str], python: str = sys.executable
) -> Path:
    """Write ``ray.sh``.

    Args:
        directory: Directory of the script, created if it is missing; its log is written there.
        nodes: Machines of the job.
        count: Runs of the plan, for a comment.
        arguments: Command line of ``tools/sweep.py`` for the sweep, without ``--address``.
        python: The interpreter; ``ray`` is the program beside it.

    Returns:
        Path: The script.

    Raises:
        UserError: The directory cannot be written, or ``#SBATCH`` lines cannot name it.
    """
    directory = Path(directory).absolute()
    check_directive_path(directory)
    script = directory / SCRIPT
    directory.mkdir(parents=True, exist_ok=True)
    write_text(
        script,
        _TEXT.format(
            name=directive(directory.name),
            nodes=nodes,
            output=directive(f'{pattern(directory)}/ray.txt'),
            count=count,
            script=shlex.quote(str(script)),
            root=shlex.quote(str(ROOT)),
            ray=shlex.quote(str(Path(python).with_name('ray'))),
            python=shlex.quote(python),
            cwd=shlex.quote(os.getcwd()),
            command=shlex.join([python, *arguments]),
        ),
    )
    return script
