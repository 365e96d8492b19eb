"""Run a program of tools/ whose sweep starts stub_run.py for every training: python with_stub_runs.py TOOL [options].

The environment variable STUB_SECONDS sets how long an epoch of the stub takes.
"""

import json
import os
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

from ftsgd_plugin.sweep import driver
from ftsgd_plugin.sweep.runs import survey
from helpers.stub_records import record_of

TOOL = Path(__file__).resolve().parents[2] / 'tools' / sys.argv[1]
STUB = str(Path(__file__).with_name('stub_run.py'))
run_sweep = driver.run_sweep


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
