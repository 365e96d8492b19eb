"""dist_train.sh, dist_test.sh and slurm_train.sh, with stand-ins for Python and Slurm."""

import os
import shutil
import socket
import subprocess

import pytest
from helpers import ROOT, run_process
from helpers.stand_in import write_python


@pytest.mark.parametrize('gpus', ['x', '0', '-1', '1.5', '', '08', '2 4'])
@pytest.mark.parametrize('script, words', [('dist_train.sh', ['c.py']), ('dist_test.sh', ['c.py', 'c.pth'])])
def test_bad_number_of_gpus_is_one_line(script, words, gpus, tmp_path):
    python = write_python(tmp_path / 'python')
    result = run_process('bash', ROOT / 'tools' / script, *words, gpus, cwd=tmp_path, PYTHON=str(python))
    assert result.returncode == 2
    expected = f"error: GPUS must be a positive whole number, not '{gpus}'; usage: bash tools/{script} "
    assert result.stderr.startswith(expected) and result.stderr.count('\n') == 1


@pytest.mark.parametrize('name, value', [('GPUS', 'x'), ('GPUS', '0'), ('GPUS_PER_NODE', 'x'), ('GPUS_PER_NODE', '-1')])
def test_bad_number_of_gpus_for_slurm_is_one_line(name, value, tmp_path):
    write_python(tmp_path / 'srun')
    words, path = ['gpu', 'job', 'c.py', 'runs'], f'{tmp_path}:{os.environ["PATH"]}'
    result = run_process('bash', ROOT / 'tools/slurm_train.sh', *words, cwd=tmp_path, PATH=path, **{name: value})
    line = f"error: {name} must be a positive whole number, not '{value}'; usage: bash tools/slurm_train.sh "
    assert result.returncode == 2
    assert result.stderr.startswith(line) and result.stderr.count('\n') == 1


def test_slurm_without_a_gpu(tmp_path):
    write_python(tmp_path / 'srun', '#!/bin/sh\necho "$@"\n')
    words, path = ['cpu', 'job', 'c.py', 'runs'], f'{tmp_path}:{os.environ["PATH"]}'
    result = run_process('bash', ROOT / 'tools/slurm_train.sh', *words, cwd=tmp_path, PATH=path, GPUS_PER_NODE='0')
    assert result.returncode == 0 and '--ntasks=8' in result.stdout and '--gres' not in result.stdout


def test_port_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_process(
            'bash', ROOT / 'tools/dist_train.sh', 'c.py', '1', cwd=tmp_path, PORT=str(port), PYTHONPATH=str(ROOT)
        )
    assert result.returncode == 2
    assert result.stderr.startswith('error: MASTER_ADDR, PORT: ') and result.stderr.count('\n') == 1
    assert str(port) in result.stderr and 'set another PORT' in result.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_launchers_find_their_programs_in_a_wheel(script, tmp_path):
    """``.mim/tools`` alone, without a checkout or .venv."""
    tools = tmp_path / 'site packages/ftsgd_plugin/.mim/tools'
    shutil.copytree(ROOT / 'tools', tools, ignore=shutil.ignore_patterns('__pycache__', 'demo.sh', 'run_tests.sh'))
    python = write_python(tmp_path / 'python', '#!/bin/sh\nprintf "%s\\n" "$@"\n')
    result = run_process(
        'bash', tools / script, 'c.py', *['c.pth'] * ('test' in script), '2', cwd=tmp_path, PYTHON=python
    )
    words = result.stdout.splitlines()
    assert words[0] == f'{tools}/torchrun.py' and {'--standalone', '--nproc_per_node=2'} <= {*words}
    program = tools / ('test.py' if 'test' in script else 'train.py')
    assert str(program) in words and program.is_file()


@pytest.mark.parametrize('argv', [[], ['config.py']])
@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_launchers_print_their_usage(script, argv, tmp_path):
    result = run_process('bash', ROOT / 'tools' / script, *argv, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith(f'usage: bash tools/{script} ')


def test_slurm_train_calls_srun(tmp_path):
    """Without a cluster: a stand-in for srun prints its arguments."""
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    result = run_process(
        'bash', ROOT / 'tools/slurm_train.sh', 'gpu', 'job', 'c.py', 'runs', '--resume', '--cfg-options', 'a=1',
        cwd=tmp_path, PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='4', SRUN_ARGS='--time=1:00 --exclusive',
    )  # fmt: skip
    words = result.stdout.split('\n')
    assert words[:2] == ['-p', 'gpu']
    for word in ('--job-name=job', '--ntasks=4', '--gres=gpu:4', '--ntasks-per-node=4', '--time=1:00', '--exclusive'):
        assert word in words
    assert words[words.index('-u') + 1 :][:8] == [
        f'{ROOT}/tools/train.py', 'c.py', '--work-dir=runs', '--launcher=slurm', '--resume', '--cfg-options', 'a=1', '',
    ]  # fmt: skip


@pytest.fixture
def slurm(tmp_path):
    """Run ``slurm_train.sh`` with stand-ins: srun logs its words and ends with the next of ``codes``."""

    def run(codes: list[int], **environment) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        log = tmp_path / 'calls'
        (tmp_path / 'codes').write_text(''.join(f'{code}\n' for code in codes))
        write_python(
            tmp_path / 'srun',
            f'#!/bin/bash\n(printf "%s\\x1f" srun "$@"; echo) >> {log}\ncode=$(head -n 1 {tmp_path}/codes)\n'
            f'sed -i 1d {tmp_path}/codes\nexit $code\n',
        )
        write_python(tmp_path / 'scontrol', f'#!/bin/bash\n(printf "%s\\x1f" scontrol "$@"; echo) >> {log}\n')
        result = run_process(
            'bash', ROOT / 'tools/slurm_train.sh', 'gpu', 'job', 'my config.py', 'my runs', '--cfg-options', 'a=1',
            cwd=tmp_path, PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='2', **environment,
        )  # fmt: skip
        return result, [line.split('\x1f')[:-1] for line in log.read_text().splitlines()]

    return run


def test_slurm_train_asks_for_a_signal_and_queues_again_with_resume(slurm):
    result, calls = slurm([138, 138, 0], MIN_SECONDS='0')
    assert result.returncode == 0 and result.stderr.count('queued again') == 2
    first, second, third = calls
    assert '--signal=USR1@120' in first and '--kill-on-bad-exit=1' in first
    assert first[-5:] == ['my config.py', '--work-dir=my runs', '--launcher=slurm', '--cfg-options', 'a=1']
    assert second == third == [*first, '--resume']


@pytest.mark.parametrize('code', [0, 1, 2, 143, 130])
def test_slurm_train_queues_nothing_else_again(slurm, code):
    result, calls = slurm([code])
    assert (result.returncode, len(calls), result.stderr) == (code, 1, '')


def test_slurm_train_inside_a_batch_job_requeues_the_job(slurm):
    result, calls = slurm([138], SLURM_JOB_ID='77', SIGNAL_SECONDS='300')
    assert result.returncode == 0 and calls[1] == ['scontrol', 'requeue', '77']
    assert '--signal=USR1@300' in calls[0] and '--resume' not in calls[0]
    result, calls = slurm([0], SLURM_JOB_ID='77', SLURM_RESTART_COUNT='1')
    assert result.returncode == 0 and calls[-1][-1] == '--resume'


def test_slurm_train_may_be_left_stopped_and_does_not_run_in_circles(slurm):
    result, calls = slurm([138], REQUEUE='0')
    assert (result.returncode, len(calls)) == (138, 1)
    result, calls = slurm([138])
    assert result.returncode == 138 and 'ask for a longer time limit' in result.stderr
