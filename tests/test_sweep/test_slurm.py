"""The Slurm script: valid bash, one task is one run, submitting it again continues."""

import argparse
import shlex
import subprocess

import pytest
from helpers import ROOT, run_process
from helpers.tiny_sweep import OPTIONS, write_plan

from ftsgd_plugin.records import read_record
from ftsgd_plugin.utils.options import add_cfg_options


@pytest.fixture
def written(digits_root, run_tool, tmp_path):
    """The plan, the sweep's directory, the script and the names of its runs."""
    plan, out, directory = write_plan(tmp_path, digits_root), tmp_path / 'my out', tmp_path / 'my slurm'
    code, err = run_tool('sweep', plan, '--out', out, '--slurm', directory, '--gpus-per-run', '0', *OPTIONS)
    assert code == 0, err
    names = [line.split()[1] for line in (directory / 'runs.txt').read_text().splitlines()]
    assert len(names) == 4 and not (out / 'runs').exists()
    return plan, out, directory / 'sweep.sh', names


def test_script_is_valid(written):
    script = written[2]
    assert subprocess.run(['bash', '-n', str(script)]).returncode == 0
    text = script.read_text()
    assert '#SBATCH --array=0-3\n' in text and '--gpus' not in text.replace('--gpus-per-run', '')


@pytest.mark.slow  # two cold interpreters and a training
def test_one_task_of_the_script_runs_here(written, run_tool):
    plan, out, script, names = written
    result = run_process('bash', script, cwd=ROOT, SLURM_ARRAY_TASK_ID='2')
    assert result.returncode == 0, result.stderr
    assert f'{names[2]}: finished' in result.stdout
    code, err = run_tool('sweep', plan, '--out', out, '--gpus-per-run', '0', '--index', '2', *OPTIONS)
    assert code == 0 and f'{names[2]}: finished' in run_tool.stdout, err
    record = read_record(out / 'runs' / names[2])
    assert record.status == 'finished' and names[2].startswith('vit-tiny_freeze-embed_digits_lr1e-3')
    assert [path.name for path in (out / 'runs').iterdir()] == [names[2]]
    assert not list((out / 'runs' / names[2]).glob('*.pth'))


def test_tasks_get_the_command_line_without_slurm(run_tool, tmp_path):
    plan, both = write_plan(tmp_path), tmp_path / 'both'
    for option in (['--slurm', both], [f'--slurm={both}']):
        assert run_tool('sweep', plan, '--out', both, *option, '--keep-checkpoints')[0] == 0
        last = (both / 'sweep.sh').read_text().splitlines()[-1]
        assert last.endswith(f'tools/sweep.py {plan} --out {both} --keep-checkpoints --index "$index"')


def test_gpus_of_a_task(run_tool, tmp_path):
    plan = write_plan(tmp_path)
    assert run_tool('sweep', plan, '--out', tmp_path / 'out', '--slurm', tmp_path / 'slurm')[0] == 0
    assert '#SBATCH --gpus-per-task=1\n' in (tmp_path / 'slurm/sweep.sh').read_text()
    code, err = run_tool('sweep', plan, '--out', tmp_path / 'out', '--slurm', tmp_path / 's', '--gpus-per-run', '0.5')
    assert (code, err) == (2, 'error: --gpus-per-run 0.5: Slurm allocates whole GPUs; give 1 or 0, or use Ray.\n')


@pytest.mark.parametrize('index', ['-1', '4'])
def test_index_outside_the_plan(run_tool, tmp_path, index):
    code, err = run_tool('sweep', write_plan(tmp_path), '--out', tmp_path / 'out', '--index', index)
    assert (code, err) == (2, f'error: --index {index}: the plan has runs 0 to 3.\n')


def test_cfg_options_reach_the_tasks_unchanged(run_tool, tmp_path, monkeypatch):
    options = ['a.lr=3e-4', 'a.names=[x,y]', 'a.sizes=(1,2)', 'a.none=None', 'a.flag=True']
    parsed = []
    monkeypatch.setattr('ftsgd_plugin.sweep.slurm.write_script', lambda *args: parsed.append(args[2]) or 'script')
    directories = ('--slurm', tmp_path / 'slurm', '--out', tmp_path / 'out')
    code, err = run_tool('sweep', write_plan(tmp_path), *directories, '--cfg-options', *options)
    assert code == 0, err
    words = parsed[0]
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    again = parser.parse_args(words[words.index('--cfg-options') :]).cfg_options
    assert again == parser.parse_args(['--cfg-options', *options]).cfg_options


def test_paths_with_blanks_and_percent_signs(run_tool, tmp_path):
    """As Slurm reads ``#SBATCH`` lines: a blank ends an unquoted value, and ``%`` begins a symbol of a file name."""
    directory = tmp_path / '100 %a of it'
    assert run_tool('sweep', write_plan(tmp_path), '--out', tmp_path / 'my out', '--slurm', directory)[0] == 0
    text = (directory / 'sweep.sh').read_text()
    words = [word for line in text.splitlines() if line.startswith('#SBATCH ') for word in shlex.split(line)[1:]]
    assert all(word.startswith('--') for word in words)
    options = dict(word.split('=', 1) for word in words)
    assert options['--job-name'] == '100 %a of it'
    assert options['--output'] == str(directory / 'logs').replace('%', '%%') + '/%a.txt'
    assert subprocess.run(['bash', '-n', str(directory / 'sweep.sh')]).returncode == 0
    example = next(line for line in text.splitlines() if line.startswith('#     sbatch --partition'))
    assert shlex.split(example.lstrip('#'))[-1] == str(directory / 'sweep.sh')


@pytest.mark.parametrize('letter', ['"', '\\', '\n'])
def test_a_path_that_a_directive_cannot_hold_is_one_line(run_tool, tmp_path, letter):
    code, err = run_tool('sweep', write_plan(tmp_path), '--out', tmp_path / 'o', '--slurm', tmp_path / f'a{letter}b')
    assert code == 2 and err.startswith('error: --slurm ') and err.count('\n') == 1
    assert '#SBATCH lines cannot have' in err and not [*tmp_path.glob('a*')]


def test_a_task_is_signalled_ahead_of_its_limit(written):
    """The shell has replaced itself with the sweep, which ends the run with SIGTERM."""
    assert '#SBATCH --signal=B:TERM@120\n' in written[2].read_text()
