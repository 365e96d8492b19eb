"""The shell scripts and what they start, with stand-ins for Python: nothing is installed, no network."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, free_port, run_process
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Stands for every Python: `-m venv` copies it, pip works where the file `pip` is beside it, calls go to $LOG.
PYTHON = """#!/bin/bash
[ -z "${LOG:-}" ] || echo "$0 $*" >> "$LOG"
case "$*" in
    --version) echo "Python 3.11.0" ;;
    *"-m venv"*)
        [[ "$*" != *--clear* ]] || rm -rf "${@: -1}"
        mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" && touch "${@: -1}/bin/pip" ;;
    *"-m pip show"*) [ -e "$(dirname "$0")/pip" ] ;;
esac
"""


def write_python(path: Path, text: str = PYTHON) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path):
    """What env.sh reads, in a folder with a space; ``checkout.sh(script)`` runs bash with env.sh sourced."""

    class Checkout:
        root = tmp_path / 'my checkout'
        venv = root / '.venv'
        log = tmp_path / 'log'

        def sh(self, script: str, **environment) -> subprocess.CompletedProcess:
            inherited = ('PYTHON', 'VIRTUAL_ENV', 'CONDA_PREFIX', 'CONDA_DEFAULT_ENV')
            return subprocess.run(
                ['bash', '-c', f'set -euo pipefail; source tools/env.sh; {script}'],
                cwd=self.root,
                env={k: v for k, v in os.environ.items() if k not in inherited} | {'LOG': self.log, **environment},
                capture_output=True,
                text=True,
                timeout=60,
            )

        def calls(self) -> list[str]:
            return self.log.read_text().splitlines() if self.log.exists() else []

    shutil.copytree(ROOT / 'tools', Checkout.root / 'tools', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(ROOT / 'requirements', Checkout.root / 'requirements')
    for name in ('pyproject.toml', 'setup.py'):
        shutil.copy(ROOT / name, Checkout.root)
    return Checkout()


def test_paths_with_spaces(checkout, tmp_path):
    """The interpreter's and the checkout's, up to a finished environment that the next call leaves alone."""
    python = write_python(tmp_path / 'opt/my python/bin/python')
    first = checkout.sh('ensure_environment', PYTHON=python)
    assert (first.returncode, first.stderr) == (0, '')
    assert 'incomplete' not in first.stdout
    installs = [call for call in checkout.calls() if '-m pip install' in call]
    requirements = checkout.root / 'requirements'
    assert f'-r {requirements}/pinned.txt -c {requirements}/constraints.txt' in installs[0]
    assert f'-r {requirements}/mim.txt' in installs[1] and f'-e {checkout.root}' in installs[2]
    again = checkout.sh('ensure_environment', PYTHON=python)
    assert again.stdout == f'[set-up] {checkout.venv} is up to date\n'


@pytest.mark.parametrize('file', ['pinned.txt', 'constraints.txt', 'mim.txt'])
def test_changed_requirements_are_installed(checkout, tmp_path, file):
    python = write_python(tmp_path / 'python')
    checkout.sh('ensure_environment', PYTHON=python)
    with (checkout.root / 'requirements' / file).open('a') as requirements:
        requirements.write('# changed\n')
    checkout.log.unlink()
    result = checkout.sh('ensure_environment', PYTHON=python)
    assert 'installing' in result.stdout and 'making' not in result.stdout
    assert [call for call in checkout.calls() if '-m pip install' in call]


@pytest.mark.parametrize('name', ['/no such/python', 'old python'])
def test_no_fitting_interpreter_is_one_line(checkout, name):
    """One that is not there, and one of the wrong version."""
    write_python(checkout.root / 'old python', '#!/bin/sh\nexit 1\n')
    result = checkout.sh('ensure_environment', PYTHON=name if name.startswith('/') else f'./{name}')
    assert result.returncode == 2
    assert re.fullmatch(r'error: \S.*python is no Python 3\.10, 3\.11 or 3\.12; .*\n', result.stderr)
    assert not checkout.venv.exists()


@pytest.mark.parametrize('damage', ['no pip', 'no python', 'base is gone', 'cut short while installing'])
def test_half_made_environment_is_made_again(checkout, tmp_path, damage):
    python = write_python(tmp_path / 'python')
    assert checkout.sh('ensure_environment', PYTHON=python).returncode == 0
    if damage == 'no pip':
        (checkout.venv / 'bin/pip').unlink()
    elif damage == 'cut short while installing':
        (checkout.venv / '.ftsgd-installed').unlink()
    else:
        (checkout.venv / 'bin/python').unlink()
    if damage == 'base is gone':
        (checkout.venv / 'bin/python').symlink_to('/no/such/python3.11')
    (checkout.venv / 'leftover').touch()
    result = checkout.sh('ensure_environment', PYTHON=python)
    assert (result.returncode, result.stderr) == (0, '')
    line = f'[set-up] {checkout.venv} is incomplete or the Python it was made with is gone; making it again\n'
    remade = damage != 'cut short while installing'  # pip goes on where it was
    assert (line in result.stdout) == remade == (not (checkout.venv / 'leftover').exists())
    assert 'up to date' in checkout.sh('ensure_environment', PYTHON=python).stdout


def test_cut_short_update_is_not_up_to_date_with_the_old_requirements(checkout, tmp_path):
    python = write_python(tmp_path / 'python')
    pinned = checkout.root / 'requirements/pinned.txt'
    before = pinned.read_text()
    checkout.sh('ensure_environment', PYTHON=python)
    pinned.write_text(before + '# changed\n')
    write_python(checkout.venv / 'bin/python', PYTHON.replace('esac', '*"-m pip install"*) exit 1 ;;\nesac'))
    assert checkout.sh('ensure_environment', PYTHON=python).returncode == 1
    pinned.write_text(before)
    assert 'up to date' not in checkout.sh('ensure_environment', PYTHON=python).stdout


def test_real_venv_without_pip_is_noticed(checkout):
    """What a kill during `python -m venv` leaves, and what it would have become: by the real interpreter."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', checkout.venv], check=True)
    assert checkout.sh('_venv_works').returncode == 1
    site = next(checkout.venv.glob('lib/python*/site-packages'))
    spec = importlib.util.find_spec('pip')
    (site / 'pip').symlink_to(Path(spec.origin).parent)
    assert checkout.sh('_venv_works').returncode == 1, 'pip is unpacked, its metadata is not'
    info = next(Path(spec.origin).parents[1].glob('pip-*.dist-info'))
    (site / info.name).symlink_to(info)
    assert checkout.sh('_venv_works').returncode == 0


CONDA = dict(CONDA_PREFIX='/opt/conda/envs/mine', CONDA_DEFAULT_ENV='mine')


@pytest.mark.parametrize(
    'environment, expected, without_venv',
    [
        ({}, '.venv', 'python'),
        (dict(VIRTUAL_ENV='/some/env'), 'python', 'python'),
        (CONDA, 'python', 'python'),
        (CONDA | dict(CONDA_DEFAULT_ENV='base'), '.venv', 'python'),
        (CONDA | dict(CONDA_DEFAULT_ENV='base', VIRTUAL_ENV='/some/env'), 'python', 'python'),
        (CONDA | dict(PYTHON='/opt/my python'), '/opt/my python', '/opt/my python'),
        (dict(PYTHON='/opt/my python'), '/opt/my python', '/opt/my python'),
    ],
)
def test_pick_python(checkout, tmp_path, environment, expected, without_venv):
    write_python(tmp_path / 'bin/python')
    environment = environment | {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}'}
    assert checkout.sh('pick_python', **environment).stdout == f'{without_venv}\n'
    python = write_python(checkout.venv / 'bin/python')
    expected = str(python) if expected == '.venv' else expected
    assert checkout.sh('pick_python', **environment).stdout == f'{expected}\n'


def test_pick_python_where_there_is_python3_only(checkout, tmp_path):
    (tmp_path / 'bin').mkdir()
    for name in ('bash', 'dirname', 'python3'):
        (tmp_path / 'bin' / name).symlink_to(shutil.which(name))
    assert checkout.sh('pick_python', PATH=f'{tmp_path}/bin').stdout == 'python3\n'


@pytest.mark.parametrize('gpus', ['x', '0', '-1', '1.5', '', '08', '2 4'])
@pytest.mark.parametrize('script, words', [('dist_train.sh', ['c.py']), ('dist_test.sh', ['c.py', 'c.pth'])])
def test_gpus_that_are_no_number_are_one_line(script, words, gpus, tmp_path):
    python = write_python(tmp_path / 'python')
    result = run_process('bash', ROOT / 'tools' / script, *words, gpus, cwd=tmp_path, PYTHON=str(python))
    assert result.returncode == 2
    expected = f"error: GPUS must be a positive whole number, not '{gpus}'; usage: bash tools/{script} "
    assert result.stderr.startswith(expected) and result.stderr.count('\n') == 1


@pytest.mark.parametrize('name, value', [('GPUS', 'x'), ('GPUS', '0'), ('GPUS_PER_NODE', 'x'), ('GPUS_PER_NODE', '-1')])
def test_slurm_gpus_that_are_no_number_are_one_line(name, value, tmp_path):
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
        port = str(taken.getsockname()[1])
        result = run_process(
            'bash', ROOT / 'tools/dist_train.sh', 'c.py', '1', cwd=tmp_path, PORT=port, PYTHONPATH=str(ROOT)
        )
    assert result.returncode == 2
    assert result.stderr == f'error: port {port} of 127.0.0.1 is in use; set PORT= to a free one\n'


@pytest.mark.parametrize(
    'argv, line',
    [
        (['--master_port=29511'], 'port 29511 of 127.0.0.1 is in use; set PORT= to a free one'),
        (['--nnodes=2', '--master_addr=host0'], 'port 29500 of host0 is in use; set PORT= to a free one'),
        (['--standalone'], None),
        (['--rdzv-backend=c10d', '--rdzv-endpoint=host0:29400'], None),
    ],
)
@pytest.mark.parametrize('message', ['code: -98, name: EADDRINUSE', '(errno: 98 - Address already in use).', 'other'])
def test_port_line_speaks_of_the_master_port_only(monkeypatch, argv, line, message):
    """Both wordings are torch's: of 2.11, and one in reports of 2022 to 2024."""
    spec = importlib.util.spec_from_file_location('torchrun', ROOT / 'tools/torchrun.py')
    torchrun = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(torchrun)
    monkeypatch.setattr(sys, 'argv', ['torchrun.py', *argv, 'tools/train.py'])
    assert torchrun.busy_port(RuntimeError(message)) == (None if message == 'other' else line)


@pytest.mark.parametrize('layout', ['checkout', 'wheel'])
@pytest.mark.parametrize('program', sorted(path.name for path in (ROOT / 'tools').glob('*.py')))
def test_program_without_the_stack_is_one_line(program, layout, tmp_path):
    package = tmp_path / 'site/ftsgd_plugin'
    shutil.copytree(ROOT / 'ftsgd_plugin', package, ignore=shutil.ignore_patterns('__pycache__', '*.safetensors'))
    tools = package / '.mim/tools' if layout == 'wheel' else tmp_path / 'site/tools'
    shutil.copytree(ROOT / 'tools', tools, ignore=shutil.ignore_patterns('__pycache__'))
    (package.parent / 'torch.py').write_text('raise ModuleNotFoundError("No module named \'torch\'", name="torch")\n')
    result = run_process(sys.executable, tools / program, '--help', cwd=tmp_path, PYTHONPATH=str(package.parent))
    assert result.returncode == 2
    line = (
        "error: ftsgd_plugin needs torch and cannot import it (No module named 'torch'); run: pip install 'torch>=2.1'"
    )
    assert result.stderr.startswith(line) and result.stderr.count('\n') == 1


def test_processes_without_the_stack_say_one_line_together(tmp_path):
    (tmp_path / 'mmengine.py').write_text('raise ModuleNotFoundError("No module named \'mmengine\'")\n')
    result = run_process(
        'bash',
        ROOT / 'tools/dist_train.sh',
        'c.py',
        '2',
        cwd=tmp_path,
        PORT=free_port(),
        PYTHONPATH=f'{tmp_path}:{ROOT}',
    )
    assert result.returncode == 2
    assert result.stderr.startswith('error: ftsgd_plugin needs mmengine') and result.stderr.count('\n') == 1


def test_session_without_the_stack_raises_the_line_alone(tmp_path):
    """No chained traceback above it; a program that is not ours is not ended."""
    (tmp_path / 'torch.py').write_text('raise OSError("libc10.so: not there")\n')
    code = 'try:\n    import ftsgd_plugin\nexcept ImportError as error:\n    print(error)\nimport ftsgd_plugin'
    result = run_process(sys.executable, '-c', code, cwd=tmp_path, PYTHONPATH=f'{tmp_path}:{ROOT}')
    line = 'ftsgd_plugin needs torch and cannot import it (libc10.so: not there); run: pip install'
    assert result.returncode == 1 and result.stdout.startswith(line)
    assert result.stderr.count('Traceback') == 1
    assert result.stderr.splitlines()[-1].startswith(f'ftsgd_plugin.utils.environment.StackError: {line}')


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_launchers_find_their_programs_in_a_wheel(script, tmp_path):
    """Only ``.mim/tools`` is there: no checkout, no .venv."""
    tools = tmp_path / 'site packages/ftsgd_plugin/.mim/tools'
    shutil.copytree(ROOT / 'tools', tools, ignore=shutil.ignore_patterns('__pycache__', 'demo.sh', 'run_tests.sh'))
    python = write_python(tmp_path / 'python', '#!/bin/sh\nprintf "%s\\n" "$@"\n')
    result = run_process(
        'bash', tools / script, 'c.py', *['c.pth'] * ('test' in script), '2', cwd=tmp_path, PYTHON=python
    )
    words = result.stdout.splitlines()
    assert words[0] == f'{tools}/torchrun.py' and '--nproc_per_node=2' in words
    program = tools / ('test.py' if 'test' in script else 'train.py')
    assert str(program) in words and program.is_file()


@pytest.mark.parametrize('version', ['3.10', '3.11', '3.12'])
def test_constraints_are_exact_and_agree_with_the_requirements(version):
    def read(name: str) -> dict[str, str]:
        found = {}
        for line in (ROOT / 'requirements' / name).read_text().splitlines():
            line = line.split(' #')[0].strip()
            if not line or line.startswith('#'):
                continue
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({'python_version': version}):
                assert canonicalize_name(requirement.name) not in found, line
                assert re.fullmatch(r'==[\w.]+', str(requirement.specifier)), line
                found[canonicalize_name(requirement.name)] = str(requirement.specifier)
        return found

    constraints, mim = read('constraints.txt'), read('mim.txt')
    assert read('pinned.txt').items() <= constraints.items()
    assert not constraints.keys() & ({*mim} | {'ftsgd-plugin'})
    assert len(constraints) > 90


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
