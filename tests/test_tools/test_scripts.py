"""The shell scripts and the tools that they start. Stand-ins replace Python: nothing is installed, no network."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run_process
from helpers.stand_in import PYTHON, write_python
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture
def checkout(tmp_path):
    """The files env.sh reads, in a directory with a space; ``checkout.sh(script)`` runs bash with env.sh sourced."""

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

    shutil.copytree(ROOT / 'requirements', Checkout.root / 'requirements')
    (Checkout.root / 'tools').mkdir()
    shutil.copy(ROOT / 'tools/env.sh', Checkout.root / 'tools')
    for name in ('pyproject.toml', 'setup.py'):
        shutil.copy(ROOT / name, Checkout.root)
    return Checkout()


def test_paths_with_spaces(checkout, tmp_path):
    """Both the interpreter's and the checkout's; the next call leaves the finished environment as it is."""
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


def test_stack_is_chosen_by_name(checkout, tmp_path):
    python = write_python(tmp_path / 'python')
    checkout.sh('ensure_environment', PYTHON=python)
    checkout.log.unlink()
    assert 'up to date' not in checkout.sh('ensure_environment', PYTHON=python, STACK='onedl').stdout
    assert [call for call in checkout.calls() if f'-r {checkout.root}/requirements/onedl.txt' in call]
    result = checkout.sh('ensure_environment', PYTHON=python, STACK='other')
    assert (result.returncode, result.stderr.count('\n')) == (2, 1) and "not 'other'" in result.stderr


@pytest.mark.parametrize(
    'file', ['requirements/pinned.txt', 'requirements/constraints.txt', 'requirements/mim.txt', 'pyproject.toml']
)
def test_changed_requirements_are_installed(checkout, tmp_path, file):
    python = write_python(tmp_path / 'python')
    checkout.sh('ensure_environment', PYTHON=python)
    with (checkout.root / file).open('a') as requirements:
        requirements.write('# changed\n')
    checkout.log.unlink()
    result = checkout.sh('ensure_environment', PYTHON=python)
    assert 'installing' in result.stdout and 'creating' not in result.stdout
    assert [call for call in checkout.calls() if '-m pip install' in call]


@pytest.mark.parametrize('name', ['/no such/python', 'old python'])
def test_no_fitting_interpreter_is_one_line(checkout, name):
    """One that does not exist, and one of the wrong version."""
    write_python(checkout.root / 'old python', '#!/bin/sh\nexit 1\n')
    result = checkout.sh('ensure_environment', PYTHON=name if name.startswith('/') else f'./{name}')
    assert result.returncode == 2
    assert re.fullmatch(r'error: \S.*python is not Python 3\.10, 3\.11 or 3\.12; .*\n', result.stderr)
    assert not checkout.venv.exists()


@pytest.mark.parametrize('damage', ['no pip', 'no python', 'base is removed', 'interrupted while installing'])
def test_incomplete_environment_is_recreated(checkout, tmp_path, damage):
    python = write_python(tmp_path / 'python')
    assert checkout.sh('ensure_environment', PYTHON=python).returncode == 0
    if damage == 'no pip':
        (checkout.venv / 'bin/pip').unlink()
    elif damage == 'interrupted while installing':
        (checkout.venv / '.ftsgd-installed').unlink()
    else:
        (checkout.venv / 'bin/python').unlink()
    if damage == 'base is removed':
        (checkout.venv / 'bin/python').symlink_to('/no/such/python3.11')
    (checkout.venv / 'leftover').touch()
    result = checkout.sh('ensure_environment', PYTHON=python)
    assert (result.returncode, result.stderr) == (0, '')
    line = f'[set-up] {checkout.venv} is incomplete or its Python has been removed; creating it again\n'
    remade = damage != 'interrupted while installing'  # pip continues
    assert (line in result.stdout) == remade == (not (checkout.venv / 'leftover').exists())
    assert 'up to date' in checkout.sh('ensure_environment', PYTHON=python).stdout


def test_interrupted_update_is_not_taken_for_the_old_environment(checkout, tmp_path):
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
    """With the real interpreter: what a kill during `python -m venv` leaves, and the finished environment."""
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


def test_pick_python_where_only_python3_exists(checkout, tmp_path):
    (tmp_path / 'bin').mkdir()
    for name in ('bash', 'dirname', 'python3'):
        (tmp_path / 'bin' / name).symlink_to(shutil.which(name))
    assert checkout.sh('pick_python', PATH=f'{tmp_path}/bin').stdout == 'python3\n'


@pytest.mark.parametrize(
    'environment, expected',
    [
        ({}, ['--standalone']),
        (dict(NNODES='1'), ['--standalone']),
        (
            dict(PORT='29511'),
            ['--nnodes=1', '--node_rank=0', '--master_addr=127.0.0.1', '--master_port=29511'],
        ),
        (
            dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='host0'),
            ['--nnodes=2', '--node_rank=1', '--master_addr=host0', '--master_port=29500'],
        ),
    ],
)
def test_one_node_chooses_a_free_port_and_several_meet_at_the_address(checkout, environment, expected):
    assert checkout.sh('rendezvous', **environment).stdout.split() == expected


PROGRAMS = sorted(path.stem for path in (ROOT / 'tools').glob('*.py'))
NEED_THE_STACK = {
    'demo': [],
    'diagnose': ['c.py'],
    'finetune': ['images', '--model', 'vit-tiny'],
    'layer_grads': ['c.py'],
    'print_layers': ['c.py'],
    'resources': ['c.py'],
    'test': ['c.py', 'c.pth'],
    'torchrun': ['train.py'],
    'train': ['c.py', '--cfg-options', 'a=1'],
    'wise_ft': ['run'],
}
# Each program runs in a fork of one process, in which torch cannot be imported.
WITHOUT_TORCH = """
import json, os, runpy, sys
sys.modules['torch'] = None
for argv in json.load(open('argv.json')):
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 1), os.dup2(write, 2)
        sys.argv = argv
        try:
            runpy.run_path(argv[0], run_name='__main__')
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    os.close(write)
    output = open(read).read()
    print(json.dumps([os.waitstatus_to_exitcode(os.wait()[1]), output]), flush=True)  # or the next child has it too
"""


@pytest.fixture(scope='module')
def without_torch(tmp_path_factory):
    """``{(tool, words): (exit code, output)}`` of every tool with ``--help`` and with a task."""
    directory = tmp_path_factory.mktemp('without_torch')
    calls = [(tool, ('--help',)) for tool in PROGRAMS] + [(tool, (*words,)) for tool, words in NEED_THE_STACK.items()]
    (directory / 'argv.json').write_text(json.dumps([[f'{ROOT}/tools/{tool}.py', *words] for tool, words in calls]))
    result = run_process(sys.executable, '-W', 'ignore', '-c', WITHOUT_TORCH, cwd=directory, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    return dict(zip(calls, map(json.loads, result.stdout.splitlines()), strict=True))


@pytest.mark.parametrize('tool', [tool for tool in PROGRAMS if tool != 'torchrun'])
def test_help_needs_no_torch(without_torch, tool):
    code, output = without_torch[tool, ('--help',)]
    assert code == 0 and output.startswith('usage: '), output


@pytest.mark.parametrize('tool', NEED_THE_STACK)
def test_tool_without_the_stack_is_one_line(without_torch, tool):
    code, output = without_torch[tool, (*NEED_THE_STACK[tool],)]
    assert (code, output.count('\n')) == (2, 1), output
    assert re.match(r"error: ftsgd_plugin needs torch and cannot import it \(.*\); run: pip install 'torch>=", output)


@pytest.mark.slow
def test_processes_without_the_stack_print_one_line_together(tmp_path):
    (tmp_path / 'mmengine.py').write_text(
        'raise ModuleNotFoundError("No module named \'mmengine\'", name="mmengine")\n'
    )
    result = run_process(
        'bash', ROOT / 'tools/dist_train.sh', 'c.py', '2', cwd=tmp_path, PYTHONPATH=f'{tmp_path}:{ROOT}'
    )
    assert result.returncode == 2
    assert result.stderr.startswith('error: ftsgd_plugin needs mmengine') and result.stderr.count('\n') == 1


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
