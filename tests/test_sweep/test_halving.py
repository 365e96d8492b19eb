"""A sweep with successive halving: what is stopped, left out, continued and tabulated. The runs are faked."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.tiny_sweep import write_plan
from mmengine.config import Config

from ftsgd_plugin.hooks import HalvingHook
from ftsgd_plugin.records import RunRecord, read_record, write_record
from ftsgd_plugin.results.aggregate import read_results
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.sweep import driver, running
from ftsgd_plugin.sweep.halving import evaluations
from ftsgd_plugin.sweep.plan import read_plan
from ftsgd_plugin.sweep.runs import survey

pytest.importorskip('ray.tune')
EPOCHS = 5
RATES = {1e-4: 0.5, 1e-3: 0.9, 1e-2: 0.7}  # the best accuracy at each


class Faked:
    """A place for runs that train epoch by epoch, all at a time, each with the hook that its config names."""

    workers = 3

    def __init__(self, tasks: dict, fails_after: int | None = None) -> None:
        self._tasks, self._fails_after, self.ran = tasks, fails_after, []

    def run(self, jobs, started):
        for index, (_, directory) in enumerate(jobs):
            started(index)
            self.ran.append(Path(directory).name)
            try:
                self._train(Path(directory))
                yield index, 0, ''
            except RuntimeError as error:
                yield index, 1, str(error)

    def _train(self, directory: Path) -> None:
        task, cfg = self._tasks[directory], Config.fromfile(directory / 'config.py')
        hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook['type'] == 'HalvingHook']
        hook = HalvingHook(**{key: value for key, value in hooks[0].items() if key != 'type'}) if hooks else None
        run, epochs = task.run, []
        if (directory / 'record.json').exists() and read_record(directory).status != 'stopped':
            epochs = read_record(directory).epochs[:-1]  # as if its last evaluation was not in a checkpoint
        for epoch in range(len(epochs), EPOCHS):
            value = RATES[run.lr] * (epoch + 1) / EPOCHS + run.seed / 1000
            epochs.append({'id/accuracy': value, 'ood/accuracy': 1 - value, 'ood/worst_group': 0.0})
            record = RunRecord(
                run.model, run.method, run.dataset, run.lr, run.seed, task.hash, 'running', epochs, epoch
            )
            write_record(record, directory)
            if self._fails_after == epoch:
                raise RuntimeError('lost')
            if hook and (line := hook._reason(directory)):
                write_record(replace(record, status='stopped', error=line), directory)
                return
        write_record(replace(record, status='finished'), directory)

    def close(self) -> None:
        pass


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Run the sweep; returns the names that ran, failures and output."""
    path = write_plan(tmp_path, lrs={'sgd': list(RATES)[::-1]}, seeds=[0, 1], epochs=EPOCHS)
    plan, out = read_plan(str(path)), tmp_path / 'out'
    out.mkdir()

    def run(halving=3.0, fails_after=None):
        place = Faked({task.directory: task for task in survey(plan, out)}, fails_after)
        monkeypatch.setattr(driver, 'place_of', lambda *_: lambda: place)
        monkeypatch.setattr(running, 'predict_costs', lambda tasks: [None] * len(tasks))
        failures = driver.run_sweep(plan, out, halving=halving)
        return place.ran, failures, capsys.readouterr().out

    run.plan, run.path, run.out = plan, path, out
    return run


def name(rate: str, seed: int) -> str:
    return f'vit-tiny_sgd_digits_lr{rate}_seed{seed}'


def status(out: Path) -> dict[str, str]:
    return {path.parent.name: read_record(path).status for path in sorted(out.glob('runs/*/record.json'))}


def test_rates_that_are_behind_are_stopped_and_their_other_seeds_left_out(sweep, run_tool):
    """Rates come in the order 1e-2 (0.7), 1e-3 (0.9), 1e-4 (0.5): the first continues as it is alone."""
    ran, failures, output = sweep()
    assert failures == [] and ran == [
        name(*one) for one in [('1e-2', 0), ('1e-3', 0), ('1e-4', 0), ('1e-2', 1), ('1e-3', 1)]
    ]
    assert status(sweep.out) == {
        **{name(rate, seed): 'finished' for rate in ('1e-2', '1e-3') for seed in (0, 1)},
        name('1e-4', 0): 'stopped',
    }
    record = read_record(sweep.out / 'runs' / name('1e-4', 0))
    assert len(record.epochs) == 1 and 'not among the best 1/3 of 3 learning rates' in record.error
    assert f'stopped: {record.error}' in output and '1 of 3 stopped by successive halving' in output

    again, failures, output = sweep()
    assert (again, failures) == ([], []) and 'all 3 runs are finished' in output
    assert run_tool('sweep', sweep.path, '--out', sweep.out, '--dry-run', '--halving')[0] == 0
    assert f'{name("1e-4", 0):<60} stopped: successive halving: ' in run_tool.stdout
    assert f'{name("1e-4", 1):<60} stopped: its learning rate was stopped with the first seed' in run_tool.stdout
    assert '6 runs, 0 to do' in run_tool.stdout

    finished, failures, _ = sweep(halving=None)
    assert failures == [] and finished == [name('1e-4', 0), name('1e-4', 1)]
    assert set(status(sweep.out).values()) == {'finished'} and len(status(sweep.out)) == 6


def test_a_stopped_run_is_in_no_number(sweep):
    sweep()
    results = read_results([sweep.out])
    assert sorted(set(results.runs['lr'])) == [1e-3, 1e-2] and len(results.found.stopped) == 1
    (cell,) = results.cells.to_dict('records')
    assert (cell['lr'], cell['n_seeds'], cell['n_lrs'], cell['at_edge']) == (1e-3, 2, 3, False)
    notes = '\n'.join([*results.found.notes(), *results.found.problems()])
    assert '4 finished runs used; left out: 1 stopped by successive halving' in notes
    assert 'no number is of their 1 learning rates' in notes and 'stopped: ' in notes
    # Seeds of a stopped rate that had been run before count as little as it does.
    finished = sweep.out / 'runs' / name('1e-3', 0)
    write_record(replace(read_record(finished), status='stopped'), finished)
    assert set(read_results([sweep.out]).runs['lr']) == {1e-2}
    only = collect([finished])
    assert (only.runs, len(only.stopped), only.unfinished) == ([], 1, [])


def test_an_interrupted_sweep_continues_where_it_was(sweep):
    """What was stopped stays so; a run that failed is compared with the records that its rivals have left."""
    ran, failures, _ = sweep(fails_after=2)
    assert len(ran) == 5 and len(failures) == 4  # the one at 1e-4 was stopped before
    ran, failures, _ = sweep()
    assert failures == [] and ran == [name('1e-2', 0), name('1e-3', 0), name('1e-3', 1)]
    assert status(sweep.out) == {
        name('1e-2', 0): 'stopped',  # after its third evaluation, with which 1e-3 is ahead
        name('1e-2', 1): 'failed',
        name('1e-3', 0): 'finished',
        name('1e-3', 1): 'finished',
        name('1e-4', 0): 'stopped',
    }
    assert len(read_record(sweep.out / 'runs' / name('1e-2', 0)).epochs) == 3


def test_one_run_by_its_index(sweep, run_tool, monkeypatch):
    sweep()
    words = ['sweep', sweep.path, '--out', sweep.out, '--halving']
    index = [run.name for run in sweep.plan.runs()].index(name('1e-4', 1))
    monkeypatch.setattr(running, 'run_process', lambda *_: pytest.fail('a rate that was stopped was run'))
    assert run_tool(*words, '--index', str(index))[0] == 0
    assert f'{name("1e-4", 1)}: stopped: its learning rate was stopped with the first seed' in run_tool.stdout
    assert run_tool(*words, '--slurm', sweep.out / 'slurm')[0] == 0
    assert ' --halving 3 --index "$index"' in (sweep.out / 'slurm/sweep.sh').read_text()


@pytest.mark.parametrize('value', ['1', '0', 'x', 'nan'])
def test_a_factor_out_of_range_is_refused(run_tool, tmp_path, value):
    code, err = run_tool('sweep', write_plan(tmp_path), '--halving', value)
    assert code == 2 and 'is not a number above 1' in err


def test_evaluations_are_counted_as_the_loop_makes_them():
    assert evaluations({'max_epochs': 20}) == 20 and evaluations({'max_epochs': 5, 'val_interval': 2}) == 3
    assert evaluations({'max_iters': 100, 'val_interval': 25, 'val_begin': 50}) == 3
    assert evaluations({'max_iters': 2500}) == 3  # MMEngine's loop by iterations: every 1000, and at the end


def test_the_benchmark_replays_a_grid_as_a_sweep_would_run_it(monkeypatch):
    """One at a time: 0.5 and 0.9 continue to the end, 0.7 is below two thirds of them after its first evaluation."""
    monkeypatch.setattr(sys, 'path', [str(ROOT / 'benchmarks'), *sys.path])
    spec = importlib.util.spec_from_file_location('benchmark_halving', ROOT / 'benchmarks/halving.py')
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'benchmark_halving', benchmark)  # for its dataclasses
    spec.loader.exec_module(benchmark)

    def curve(value: float) -> list[dict[str, float]]:
        return [{'id/accuracy': value * n / EPOCHS, 'ood/accuracy': value * n / EPOCHS - 0.1} for n in range(1, 6)]

    curves = {rate: curve(value) for rate, value in RATES.items()}
    assert benchmark.play(curves, 1, 'digits') == benchmark.Outcome(11, 15, True, 0.0, 0.0)
    late = {1e-4: curve(0.5), 1e-3: curve(0.6), 1e-2: [*curve(0.4)[:4], *curve(0.9)[4:]]}
    lost = benchmark.play(late, 1, 'digits')  # the best one is late, and lost
    assert (lost.done, lost.same) == (11, False) and lost.id == pytest.approx(30) and lost.ood == pytest.approx(30)
