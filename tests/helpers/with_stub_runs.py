"""Run a program of tools/ whose sweep starts stub_run.py for every training: python with_stub_runs.py TOOL [options].

The environment variable STUB_SECONDS sets how long an epoch of the stub takes. Its accuracies are a function of the
run's name and the epoch.
"""

import json
import os
import random
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

from ftsgd_plugin.records import RunRecord, code_version
from ftsgd_plugin.sweep import driver
from ftsgd_plugin.sweep.runs import Task, survey

TOOL = Path(__file__).resolve().parents[2] / 'tools' / sys.argv[1]
STUB = str(Path(__file__).with_name('stub_run.py'))
run_sweep = driver.run_sweep


def record_of(task: Task) -> RunRecord:
    """The record that a training of this task could leave."""
    numbers = random.Random(task.run.name)
    epochs = [
        {key: numbers.random() for key in ('id/accuracy', 'ood/accuracy', 'ood/worst_group')}
        for _ in range(task.config.train_cfg.max_epochs)
    ]
    best = max(range(len(epochs)), key=lambda epoch: epochs[epoch]['id/accuracy'])
    run = task.run
    return RunRecord(
        run.model, run.method, run.dataset, run.lr, run.seed, task.hash, 'finished', epochs, best, code=code_version(),
        environment=dict(processes=1),
        resources=dict(
            seconds=4.0, peak_bytes=1e6, state_bytes=4 * 301_314, parameters=313_666, trained_parameters=301_314,
        ),
        started='2026-01-01T00:00:00+00:00', finished='2026-01-01T00:01:00+00:00',
    )  # fmt: skip


def run_stubs(plan, out, cfg_options=None, *args, **kwargs):
    """``run_sweep`` with the stub's command."""
    tasks = {task.directory: task for task in survey(plan, out, cfg_options)}

    def command(directory: Path) -> list[str]:
        seconds = os.environ.get('STUB_SECONDS', '0')
        return [STUB, str(directory), seconds, json.dumps(asdict(record_of(tasks[directory])))]

    return run_sweep(plan, out, cfg_options, *args, command=command, **kwargs)


driver.run_sweep = run_stubs
sys.argv = [str(TOOL), *sys.argv[2:]]
runpy.run_path(str(TOOL), run_name='__main__')
