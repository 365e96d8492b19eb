"""PhaseEndHook in runs of the demo with scripted scores: what is restored, recorded and resumed."""

from types import SimpleNamespace

import helpers.scripted_score  # noqa: F401  registers ScriptedScore
import pytest
import torch
from helpers.chain import Chain
from helpers.gradual import build
from mmengine.hooks import Hook

from ftsgd_plugin.hooks import PhaseEndHook
from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.records import read_record
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError

SCORES = [0.2, 0.6, 0.5, 0.6, 0.4, 0.7, 0.1, 0.2]  # after each epoch: phase 1 is best at 2 and ends at 4
PHASES = [
    dict(layers=['head', 'blocks.5'], length='5 epochs', lr=10, patience=2, restore_best=True),
    dict(layers='blocks.4', close='head', length='2 epochs', restore_best=True),
    dict(layers='rest'),
]


class Witness(Hook):
    """Weights and momentum after each evaluation and before each epoch; LOWEST: after all decisions."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.evaluated, self.started = {}, {}

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.evaluated[runner.epoch] = copy_of(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if batch_idx == 0:
            self.started[runner.epoch] = copy_of(runner)


def copy_of(runner) -> dict[str, torch.Tensor]:
    found = {name: value.clone() for name, value in runner.model.state_dict().items()}
    state = runner.optim_wrapper.optimizer.state
    for name, param in runner.model.named_parameters():
        if param in state and state[param].get('momentum_buffer') is not None:
            found[f'momentum of {name}'] = state[param]['momentum_buffer'].clone()
    return found


def make(digits_config, work_dir, **options):
    cfg = digits_config('gradual-unfreezing', 32, launcher='none', work_dir=str(work_dir))
    cfg.train_cfg.max_epochs = len(SCORES)
    cfg.param_scheduler = dict(type='GradualUnfreezingLR', by_epoch=True, schedule=PHASES)
    cfg.optim_wrapper.optimizer.lr = 1e-3
    cfg.val_evaluator = dict(type='ScriptedScore', scores=SCORES)
    for dataset in cfg.val_dataloader.dataset.datasets:
        dataset.indices = 2
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=-1)
    cfg.custom_hooks = [dict(type='RunRecordHook')]
    cfg.merge_from_dict(options)
    runner = build_runner(cfg)
    witness = Witness()
    runner.register_hook(witness)
    return runner, witness


def equal(found: dict, expected: dict, keys=None) -> bool:
    return all(torch.equal(found[key], expected[key]) for key in (keys or expected))


@pytest.fixture
def straight(digits_config, tmp_path):
    runner, witness = make(digits_config, tmp_path / 'straight')
    runner.train()
    return runner, witness


def test_a_phase_ends_returns_to_its_best_and_a_resumed_run_repeats_it(straight, digits_config, tmp_path):
    runner, witness = straight
    log = next((tmp_path / 'straight').glob('*/*.log')).read_text()
    assert (
        'phase 1 of 3 ends after epoch 4: id/accuracy has not improved for 2 evaluations (best 0.6 after epoch 2)'
        in log
    )
    record = read_record(tmp_path / 'straight')
    assert record.phases == [{'phase': 0, 'step': 4, 'evaluations': 4, 'best': 0.6, 'best_step': 2}]
    weights = [key for key in witness.started[0] if not key.startswith('momentum')]
    for epoch in range(1, len(SCORES)):  # epochs start as they were evaluated, but those after the phases' ends
        best = {4: 2, 6: 6}.get(epoch, epoch)
        assert equal(witness.started[epoch], witness.evaluated[best], weights)
    kept = [key for key in witness.started[4] if key.startswith('momentum')]
    assert kept and all('blocks.5' in key or 'layers.5' in key for key in kept)  # of what trains on; the head is closed
    assert equal(witness.started[4], witness.evaluated[2], kept)
    assert not equal(witness.evaluated[4], witness.evaluated[2], weights)
    expected = copy_of(runner)
    for epoch in (2, 4, 5):
        name = f'epoch_{epoch}.pth'
        again, later = make(
            digits_config, tmp_path / f'resumed{epoch}', resume=True, load_from=str(tmp_path / 'straight' / name)
        )
        again.train()
        assert later.started.keys() == set(range(epoch, len(SCORES)))
        for start, found in later.started.items():
            assert equal(found, witness.started[start]) and found.keys() == witness.started[start].keys()
        assert equal(copy_of(again), expected)
        assert again.param_schedulers[0].ended == runner.param_schedulers[0].ended
        assert read_record(tmp_path / f'resumed{epoch}').phases == record.phases


@pytest.mark.parametrize('change, kept', [
    ({}, True), (dict(restore_best=False), False), (dict(metric='id/ece'), False), (None, False),
])  # fmt: skip
def test_the_best_weights_of_a_checkpoint_are_forgotten_where_the_schedule_returns_to_others(change, kept):
    first = dict(layers='head', length='4 steps', patience=2, restore_best=True)
    written, best = scheduler_of([first, dict(layers='rest')]), {'phase': 0, 'step': 1, 'weights': {}}
    written.step()
    written.observe({'id/accuracy': 0.5})
    rows = [dict(first, **(change or {})), *([] if change is not None else [dict(layers='blocks.1', length='1 step')])]
    own = scheduler_of([*rows, dict(layers='rest')])
    own.adopt_ends(written.state_dict())
    hook = PhaseEndHook()
    checkpoint = {'param_schedulers': [own.state_dict()], 'ftsgd_phase_best': best}
    hook.after_load_checkpoint(SimpleNamespace(_resume=True, param_schedulers=[own]), checkpoint)
    again = {'optimizer': {}}
    hook.before_save_checkpoint(None, again)
    assert ('ftsgd_phase_best' in again) == kept


def scheduler_of(rows) -> GradualUnfreezingLR:
    return GradualUnfreezingLR(build(Chain()), end=8, by_epoch=False, schedule=rows)


def test_what_cannot_be_watched_is_one_line_before_the_first_step(digits_config, tmp_path):
    ema = [dict(type='EMAHook')]
    phases = [dict(PHASES[0], metric='id/acuracy'), *PHASES[1:]]
    for options, message in (
        (dict(custom_hooks=ema), 'restore_best cannot be combined with EMAHook'),
        (dict(val_cfg=None, val_dataloader=None, val_evaluator=None), 'wait for evaluations and the run has none'),
        ({'param_scheduler.schedule': phases}, "phase 1: metric='id/acuracy': the validation reports no such metric"),
    ):
        with pytest.raises(UserError, match=message):
            make(digits_config, tmp_path / 'work', **options)[0].train()
