"""Ray on several machines: the cluster file by Ray's own schema, the Slurm script with stand-ins for Slurm and Ray.

Slowly, a true cluster of two nodes on this machine, one of which is lost while it trains.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, process_environment
from helpers.stand_in import write_python
from helpers.tiny_sweep import OPTIONS, write_plan

from ftsgd_plugin.records import read_record
from ftsgd_plugin.sweep.ray_backend import Cluster
from ftsgd_plugin.sweep.ray_slurm import write_ray_script
from ftsgd_plugin.utils.errors import UserError

CLUSTER = ROOT / 'configs/clusters/ray.yaml'

STAND_INS = {
    # A step: says on which machine, and is the command.
    'srun': 'while [[ "$1" == --* ]]; do [[ "$1" != --nodelist=* ]] || machine="${1#*=}"; shift; done\n'
    'echo "$machine: ${*##*/}" >> "$LOG"\nexec "$@"\n',
    'scontrol': 'printf "%s\\n" node1 node2 node3\n',
    'ray': 'echo "ray $*" >> "$LOG"\ncase "$1" in\n'
    '  start) trap "kill \\$!; exit 0" TERM; sleep 60 > /dev/null 2>&1 & wait ;;\n'
    '  status) [ "$(grep -c "^ray status" "$LOG")" -ge "${READY:-2}" ] ;;\nesac\n',
    'python': 'if [ "$1" = -c ]; then echo 10.0.0.7; exit; fi\nsleep "${DRIVER:-0}" > /dev/null 2>&1 &\n'
    'trap "echo terminated >> $LOG; kill $!; exit 2" TERM\necho "python $*" >> "$LOG"\n'
    'until [ "$(grep -c "^ray start --address" "$LOG")" -ge 2 ]; do /bin/sleep 0.1; done\nwait $!\n'
    'exit "${CODE:-0}"\n',
    'sleep': '[ "$1" != 1 ] || exit 0\nexec /bin/sleep "$@"\n',
}


@pytest.fixture
def job(tmp_path):
    """Start the script as Slurm would on three machines; returns the process and the log of the stand-ins."""
    for name, text in STAND_INS.items():
        write_python(tmp_path / 'bin' / name, f'#!/bin/bash\n{text}')
    words = ['tools/sweep.py', 'plan.py', '--out', 'out', '--cfg-options', 'a=1']
    script = write_ray_script(tmp_path / 'my slurm', 3, 840, words, python=str(tmp_path / 'bin/python'))
    log = tmp_path / 'log'
    log.touch()
    path = f'{tmp_path}/bin:{os.environ["PATH"]}'
    slurm = dict(SLURM_JOB_NODELIST='node[1-3]', SLURM_JOB_ID='4711', SLURM_CPUS_ON_NODE='16', LOG=log, PATH=path)

    def start(**environment) -> tuple[subprocess.Popen, Path]:
        variables = process_environment(**slurm, **environment)
        options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
        return subprocess.Popen(['bash', str(script)], **options), log

    return start


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize('code', [0, 1])
def test_slurm_job_starts_ray_on_every_machine_then_the_sweep(job, code):
    process, log = job(CODE=code)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == code, errors
    lines = log.read_text().splitlines()
    heads = [line for line in lines if line.startswith('ray start --head')]
    where = '--node-ip-address=10.0.0.7 --port=24711'
    assert heads == [f'ray start --head {where} --block --include-dashboard=false --disable-usage-stats']
    steps = [line.split(':')[0] for line in lines if 'ray start' in line and line.startswith('node')]
    assert sorted(steps) == ['node1', 'node2', 'node3']
    assert sum(line.startswith('ray start --address=10.0.0.7:24711 --block') for line in lines) == 2
    (driver,) = [line for line in lines if line.startswith('python tools')]
    assert driver == 'python tools/sweep.py plan.py --out out --cfg-options a=1 --address 10.0.0.7:24711'
    ready = max(i for i, line in enumerate(lines) if line.startswith('ray status'))
    assert all(i > ready for i, line in enumerate(lines) if line.startswith(('ray start --address', 'python tools')))
    assert 'ray get-auth-token --generate' in lines


def test_slurm_job_hands_the_signal_to_the_driver_and_waits_for_it(job):
    process, log = job(DRIVER=60)
    wait_until(lambda: 'python tools' in log.read_text())
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 2 and 'terminated' in log.read_text()


def test_slurm_job_without_ray_ends(job):
    process, log = job(READY=1000)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 1 and 'error: Ray does not start on node1' in errors
    assert 'python tools' not in log.read_text()


def test_slurm_script_by_the_tool(run_tool, tmp_path):
    plan, directory = write_plan(tmp_path), tmp_path / 'ray %j'
    words = [plan, '--out', tmp_path / 'out', '--slurm', directory, '--ray-nodes', '4', '--gpus-per-run', '0.5']
    assert run_tool('sweep', *words, '--workers', '8') == (0, '')
    script = directory / 'ray.sh'
    assert run_tool.stdout.rstrip().endswith(str(script)) and not (tmp_path / 'out/runs').exists()
    assert subprocess.run(['bash', '-n', str(script)]).returncode == 0
    text = script.read_text()
    assert '#SBATCH --nodes=4\n' in text and '#SBATCH --no-kill\n' in text and '/ray %%j/ray.txt"\n' in text
    command = f'{sys.executable} '
    (line,) = [line for line in text.splitlines() if line.startswith(command)]
    assert line.endswith(f'{plan} --out {tmp_path}/out --gpus-per-run 0.5 --workers 8 --address "$address" &')
    for options in (['--ray-nodes', '4'], ['--ray-nodes', '4', '--slurm', directory, '--smoke']):
        code, err = run_tool('sweep', plan, *options)
        assert code == 2 and '--ray-nodes is of --slurm, without --smoke' in err


def test_cluster_file_is_valid_by_rays_own_schema(monkeypatch, tmp_path):
    """As `ray up` reads it: prepared, then checked; a wrong key is found, so the check can fail."""
    util = pytest.importorskip('ray.autoscaler._private.util')
    pytest.importorskip('jsonschema')
    content = yaml.safe_load(CLUSTER.read_text())
    prepared = util.prepare_config(yaml.safe_load(CLUSTER.read_text()))
    util.validate_config(prepared)
    assert prepared['max_workers'] == len(content['provider']['worker_ips'])
    assert len(prepared['head_start_ray_commands']) == 2 and '--head' in prepared['head_start_ray_commands'][-1]
    assert '$RAY_HEAD_IP' in prepared['worker_start_ray_commands'][-1]
    for line in [*content['head_start_ray_commands'], *content['worker_start_ray_commands']]:
        assert subprocess.run(['bash', '-n', '-c', line]).returncode == 0
    with pytest.raises(Exception, match='idle_minutes'):
        util.validate_config({**prepared, 'idle_minutes': 5})


def nodes(*cores: int) -> list[dict]:
    return [{'Alive': True, 'Resources': {'CPU': float(count)}} for count in cores]


def test_room_follows_machines_that_join_and_are_lost(monkeypatch):
    """Unless the user has said how many runs at a time; with no machine left one run waits for the next."""
    current = nodes(2)

    class Ray:
        shutdown = staticmethod(lambda: None)

        @staticmethod
        def nodes():
            return current

    monkeypatch.setattr('ftsgd_plugin.sweep.ray_backend._import_ray', lambda: Ray)
    monkeypatch.setattr('ftsgd_plugin.sweep.ray_backend._check_listening', lambda address: None)
    monkeypatch.setattr('ftsgd_plugin.sweep.ray_backend.ROOM_SECONDS', -1.0)
    monkeypatch.setattr(Cluster, '_start', lambda self, **options: None)
    free, fixed = Cluster('10.0.0.1:6379'), Cluster('10.0.0.1:6379', workers=3)
    seen = []
    for current in (nodes(2, 4), nodes(4), [], nodes(1)):  # noqa: B007  read by Ray.nodes
        for cluster in (free, fixed):
            cluster._look_for_machines()
        seen.append((free.workers, fixed.workers))
    assert seen == [(6, 3), (4, 3), (4, 3), (1, 3)]
    with pytest.raises(UserError):
        Cluster('10.0.0.1:6379', cpus=8)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_runs_of_a_lost_node_are_taken_up_again_elsewhere(start_forked, digits_root, tmp_path, monkeypatch):
    """Two nodes with room for one run each; one is lost while both train. The run resumes from its checkpoint."""
    monkeypatch.setenv('RAY_raylet_start_wait_time_s', '300')  # Ray's own limit is 30 s, too little on a busy machine
    cluster_utils = pytest.importorskip('ray.cluster_utils')
    plan = write_plan(tmp_path, digits_root, lrs={'sgd': [1e-3, 1e-2]}, epochs=12)
    words = ('tools/sweep.py', plan, '--gpus-per-run', '0')
    straight = start_forked(
        *words, '--out', tmp_path / 'straight', '--forked', *OPTIONS, cwd=ROOT, output=tmp_path / 'a'
    ).result()
    assert straight.returncode == 0, straight.stderr

    out = tmp_path / 'out'
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={'num_cpus': 0})
    try:
        lost, _ = (cluster.add_node(num_cpus=1) for _ in range(2))
        options = ['--out', out, '--address', cluster.address]
        driver = start_forked(*words, *options, *OPTIONS, cwd=ROOT, output=tmp_path / 'b')

        def begun() -> bool:
            runs = [*out.glob('runs/*/record.json')]
            return driver.has_ended() or (len(runs) == 2 and all(read_record(path).epochs for path in runs))

        wait_until(begun, 600)
        assert not driver.has_ended(), driver.result().stderr
        cluster.remove_node(lost, allow_graceful=False)
        result = driver.result(900)
    finally:
        cluster.shutdown()
    assert result.returncode == 0, result.stdout + result.stderr
    assert '2 runs, 0 finished before, 2 at a time' in result.stdout
    logs = [path.read_text() for path in out.glob('runs/*/run.log')]
    assert sum('resumed epoch' in text for text in logs) == 1, 'exactly one run was lost and resumed'
    records = [
        {path.parent.name: read_record(path) for path in where.glob('runs/*/record.json')}
        for where in (tmp_path / 'straight', out)
    ]
    same = dict(started='', finished='', command='', resources={}, environment={})
    first, second = ({name: replace(one, **same) for name, one in found.items()} for found in records)
    assert first == second and {one.status for one in second.values()} == {'finished'}
