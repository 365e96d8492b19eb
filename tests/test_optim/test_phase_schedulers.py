"""Schedules in phases in both schedulers: updates, states, accumulation, mixed precision, a plain loop."""

import io

import pytest
import torch
from helpers.chain import Chain, batch
from helpers.gradual import BASE, build, saved
from helpers.small_models import amp_wrapper, loss_of, small_classifier, trained
from helpers.small_models import batch as images
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmpretrain.registry import PARAM_SCHEDULERS
from torch.optim.lr_scheduler import CosineAnnealingLR

from ftsgd_plugin import GradualUnfreezing, list_layers, param_groups
from ftsgd_plugin.checkpoint.adoption import adopt_settings
from ftsgd_plugin.checkpoint.differences import differences, summarise_differences
from ftsgd_plugin.checkpoint.settings import foreign_state
from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings('ignore:the frozen embedding', 'ignore:Detected call of')
PHASES = [
    dict(layers=['head', 'blocks.1'], length='2 steps', lr=[4, 2], lr_mult={'head': 0.5}),
    dict(layers='blocks.0', close='head', length='2 steps'),
    dict(layers='rest', lr=3),
]
LAYERS = [['blocks.1', 'head']] * 2 + [['blocks.0', 'blocks.1']] * 2 + [['blocks.0', 'blocks.1', 'head']] * 2
FACTORS = [(4, 2), (3, 1.5), (1, 1), (1, 1), (3, 3), (3, 3)]  # of the blocks and of the head


def open_layers(model) -> list[str]:
    return [x.name for x in list_layers(model) if any(param.requires_grad for param in x.params.values())]


def plain(seed: int = 0, **options):
    model = Chain().train()
    optimizer = torch.optim.SGD(param_groups(model, lr=BASE), momentum=0.9)
    options = {'schedule': PHASES, **options}
    return model, optimizer, CosineAnnealingLR(optimizer, 6), GradualUnfreezing(optimizer, model, 6, **options)


def test_a_plain_loop_follows_the_phases_and_resumes_in_every_bit():
    def run(resume_at=None) -> torch.Tensor:
        parts = plain()
        for step in range(6):
            if step == resume_at:
                file = io.BytesIO()
                torch.save([part.state_dict() for part in parts], file)
                file.seek(0)
                parts = plain()
                for part, state in zip(parts, torch.load(file, weights_only=True)):
                    part.load_state_dict(state)
            model, optimizer, cosine, scheduler = parts
            assert open_layers(model) == LAYERS[step] and scheduler.open_blocks == len(LAYERS[step]) - (
                'head' in LAYERS[step]
            )
            outer = BASE * (1 + torch.cos(torch.tensor(torch.pi * step / 6, dtype=torch.float64)).item()) / 2
            rates = {group['role']: group['lr'] / outer for group in optimizer.param_groups}
            assert (rates['block'], rates['head']) == pytest.approx(FACTORS[step], rel=1e-9)
            inputs, labels = batch(step)
            before = {name: param.detach().clone() for name, param in model.named_parameters()}
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            for name, param in model.named_parameters():
                assert torch.equal(param, before[name]) != (name.rpartition('.')[0] in LAYERS[step]), (
                    f'{name} at {step}'
                )
            cosine.step()
            scheduler.step()
            for name, param in model.named_parameters():  # what closes forgets its momentum
                assert param.requires_grad or (param not in optimizer.state and param.grad is None), f'{name} at {step}'
        return torch.cat([param.detach().flatten() for param in parts[0].parameters()])

    straight = run()
    assert all(torch.equal(run(step), straight) for step in (1, 2, 3, 5))


@pytest.mark.parametrize('options', [
    dict(schedule='linear'), dict(schedule=[dict(layers='rest')]), dict(order='bottom-up'), dict(max_depth=1),
], ids=repr)  # fmt: skip
def test_a_plain_state_of_another_schedule_is_refused(options):
    state = plain(schedule='paper')[-1].state_dict()
    with pytest.raises(UserError, match=f'the state is of a schedule with {next(iter(options))}='):
        plain(**{'schedule': 'paper', **options})[-1].load_state_dict(state)
    older = {key: value for key, value in state.items() if key not in ('schedule', 'per', 'max_depth', 'order')}
    plain(schedule='paper')[-1].load_state_dict(older)
    with pytest.raises(UserError, match=r"schedule='paper', this one has 'linear'"):
        plain(schedule='linear')[-1].load_state_dict(older)


def vit(accumulate: int = 1, by_epoch: bool = False, end: int = 6, **options):
    model = small_classifier('vit-b16').train()
    wrapper = build(model, accumulate=accumulate)
    options = {'schedule': [dict(layers='head', length='2 steps', lr=4), dict(layers=['blocks.2.mlp', 'head'][:1],
               close='head', length='2 steps'), dict(layers='rest', lr_mult={'blocks.0': 0.1})], **options}  # fmt: skip
    return model, wrapper, GradualUnfreezingLR(wrapper, end=end, by_epoch=by_epoch, **options)


def test_a_layer_within_a_block_opens_alone_and_a_state_restores_it():
    model, wrapper, scheduler = vit()
    names, states = [], []
    for step in range(6):
        names.append(trained(model))
        states.append(torch.load(saved([scheduler.state_dict(), wrapper.state_dict()]), weights_only=True))
        wrapper.update_params(loss_of(model, *images('vit-b16', step)))
        scheduler.step()
    assert {name.split('.')[0] for name in names[0]} == {'head'}
    assert {name.rpartition('.mlp.')[0] for name in names[2]} == {'backbone.net.blocks.2'}
    for group in wrapper.optimizer.param_groups:
        assert group['lr'] == pytest.approx(BASE * (0.1 if group['block'] == 0 else 1), rel=1e-12)
    for step in (3, 0, 5):
        wrapper.load_state_dict(states[step][1])
        scheduler.load_state_dict(states[step][0])
        assert trained(model) == names[step]


def test_inside_an_accumulation_window_nothing_opens_or_closes():
    model, wrapper, scheduler = vit(accumulate=3)
    wrapper.initialize_count_status(model, 0, 6)
    seen = []
    for step in range(6):
        seen.append((trained(model), wrapper.optimizer.param_groups[-1]['lr']))
        wrapper.update_params(loss_of(model, *images('vit-b16', step)))
        scheduler.step()
    assert seen[0] == seen[1] == seen[2] and seen[3] == seen[4] == seen[5] != seen[0]
    assert {name.rpartition('.mlp.')[0] for name in seen[3][0]} == {'backbone.net.blocks.2'}


def test_sgd_in_backward_is_sgd_in_every_bit_through_the_phases():
    runs = []
    for kind in ('OptimWrapper', 'SGDInBackwardOptimWrapper'):
        model = small_classifier('vit-b16').train()
        cfg = dict(type=kind, optimizer=dict(type='SGD', lr=BASE), constructor='FreezeEmbedOptimWrapperConstructor')
        wrapper = build_optim_wrapper(model, cfg)
        schedule = [dict(row) for row in PHASES]
        scheduler = GradualUnfreezingLR(wrapper, end=6, by_epoch=False, schedule=schedule)
        for step in range(6):
            wrapper.update_params(loss_of(model, *images('vit-b16', step)))
            scheduler.step()
        runs.append([param.detach().clone() for param in model.parameters()])
    assert all(map(torch.equal, *runs))


def test_with_a_loss_scale_the_phases_are_the_same():
    plain_model, plain_wrapper, plain_scheduler = vit()
    model = small_classifier('vit-b16').train()
    with amp_wrapper():
        scaled = AmpOptimWrapper(optimizer=build(model).optimizer, loss_scale=2.0**4)
    scheduler = GradualUnfreezingLR(scaled, end=6, by_epoch=False, schedule=plain_scheduler.schedule)
    for step in range(6):
        assert trained(model) == trained(plain_model)
        for one, wrapper in ((model, scaled), (plain_model, plain_wrapper)):
            wrapper.update_params(loss_of(one, *images('vit-b16', step)))
        scheduler.step()
        plain_scheduler.step()
    for one, other in zip(model.parameters(), plain_model.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_epochs_and_steps_mix_where_the_length_of_an_epoch_is_known():
    model = small_classifier('vit-b16')
    phases = [dict(layers='head', length='1 epoch', lr_warmup='2 steps'), dict(layers='rest')]
    cfg = dict(type='GradualUnfreezingLR', by_epoch=True, convert_to_iter_based=True, end=3, schedule=phases)
    scheduler = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=build(model), epoch_length=4))
    assert scheduler.plan.stretches() == [(0, 4), (4, 8)] and scheduler.plan.phases[0].warmup == 2
    scheduler.load_state_dict(torch.load(saved([scheduler.state_dict()]), weights_only=True)[0])
    assert scheduler.plan.stretches() == [(0, 4), (4, 8)]
    with pytest.raises(UserError, match='is in epochs and the schedule counts steps; set by_epoch=True'):
        vit(schedule=phases)


def checkpoint(wrapper, scheduler) -> dict:
    return dict(
        meta=dict(epoch=0, iter=0), message_hub={}, optimizer=wrapper.state_dict(),
        param_schedulers=[{**scheduler.state_dict()}],
    )  # fmt: skip


def test_resuming_compares_the_schedules_number_by_number():
    model, wrapper, scheduler = vit()
    file = checkpoint(wrapper, scheduler)
    changed = [dict(phase) for phase in scheduler.schedule['phases']]
    changed[1]['length'] = '3 steps'
    for options, message in (
        (dict(), ''),
        (
            dict(schedule=changed),
            "schedule.phases.1.length is '2 steps' in the checkpoint and '3 steps' in this config",
        ),
        (dict(schedule='cosine'), "(GradualUnfreezingLR).schedule is {'phases': "),
    ):
        _, ours, other = vit(**options)
        assert foreign_state(file, model, ours, [other]) is None
        assert message in summarise_differences(differences(file, ours, [other], {}))


def test_decisions_stay_where_the_configs_settings_are_taken_over():
    rows = [dict(layers='head', length='4 steps', patience=1), dict(layers='blocks.2', length='2 steps'), dict()]
    model, wrapper, scheduler = vit(schedule=rows, end=8)
    for score in (0.5, 0.4, 0.6):  # phase 1 ends after step 2
        wrapper.update_params(loss_of(model, *images('vit-b16', 0)))
        scheduler.step()
        scheduler.observe({'id/accuracy': score})
    file = checkpoint(wrapper, scheduler)
    file['meta'] = dict(epoch=0, iter=3)
    changed = [rows[0], dict(rows[1], lr=7), dict(layers='rest')]
    _, ours, other = vit(schedule=changed, end=8)
    assert [one.setting.partition('schedule.')[2] for one in differences(file, ours, [other], {})] == [
        'phases.1.lr', 'phases.2.layers']  # fmt: skip
    adopt_settings(file, ours, [other], epoch_length=8)
    assert other.ended == scheduler.ended == [dict(phase=0, step=2, evaluations=2, best=0.5, best_step=1)]
    assert other.plan.starts == (0, 2, 4) and ours.optimizer.param_groups[0]['lr'] == pytest.approx(7 * BASE)
    _, ours, other = vit(schedule=[dict(layers='head', length='4 steps'), dict(layers='rest')], end=8)
    adopt_settings(file, ours, [other], epoch_length=8)
    assert other.ended == [] and other.plan.starts == (0, 4)


def test_a_state_without_these_options_is_the_papers_schedule():
    """As version 0.1.0 wrote it."""
    model, wrapper, scheduler = vit(schedule='paper')
    file = checkpoint(wrapper, scheduler)
    assert not file['param_schedulers'][0].keys() & {'schedule', 'per', 'max_depth', 'order', '_epoch_length'}
    for options, expected in ((dict(), []), (dict(order='bottom-up'), ['order']), (dict(per='stage'), ['per'])):
        twin, ours, other = vit(**{'schedule': 'paper', **options})
        assert foreign_state(file, model, ours, [other]) is None
        found = [one.setting.rpartition('.')[2] for one in differences(file, ours, [other], {})]
        assert found == expected
        if not found:
            other.load_state_dict(file['param_schedulers'][0])
            assert trained(twin) == trained(model)


def test_a_state_taken_within_a_window_leaves_those_of_others_whole():
    _, wrapper, scheduler = vit(accumulate=2, schedule='paper')
    wrapper.update_params(loss_of(small_classifier('vit-b16'), *images('vit-b16', 0)))
    scheduler.step()
    assert {'schedule', 'per', 'max_depth', 'order'}.isdisjoint(scheduler.state_dict())
    assert 'schedule' in vit()[-1].state_dict()


def chain(schedule, end: int = 8, accumulate: int = 1):
    wrapper = build(Chain().train(), accumulate=accumulate)
    return wrapper, GradualUnfreezingLR(wrapper, end=end, by_epoch=False, schedule=schedule)


def test_what_closes_within_a_window_has_no_state_in_a_resumed_run():
    rows = [dict(layers='rest', length='3 steps'), dict(close='head', length='2 steps'), dict(layers='head')]
    wrapper, scheduler = chain(rows, accumulate=2)
    for group in wrapper.optimizer.param_groups:
        for param in group['params']:
            wrapper.optimizer.state[param]['momentum_buffer'] = torch.ones_like(param)
    wrapper.initialize_count_status(torch.nn.Identity(), 3, 8)
    for _ in range(3):
        scheduler.step()
    ours, resumed = chain(rows, accumulate=2)
    ours.load_state_dict(wrapper.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    closed = {group['role'] for group in ours.optimizer.param_groups if group['params'][0] not in ours.optimizer.state}
    assert closed == {'head'}


def ended_at_2(rows):
    wrapper, scheduler = chain(rows)
    for score in (0.5, 0.4):
        scheduler.step()
        scheduler.observe({'id/accuracy': score})
    return {**checkpoint(wrapper, scheduler), 'meta': dict(epoch=0, iter=2)}


ROWS = [
    dict(layers='head', length='4 steps', patience=1),
    dict(layers='blocks.1', length='2 steps'),
    dict(layers='rest'),
]


def test_a_decision_that_is_kept_stays_in_the_states_of_a_schedule_that_no_longer_waits():
    file = ended_at_2(ROWS)
    later = [dict(layers='head', length='4 steps'), *ROWS[1:]]
    wrapper, scheduler = chain(later)
    adopt_settings(file, wrapper, [scheduler], epoch_length=8)
    assert scheduler.plan.starts == (0, 2, 4)
    again = chain(later)[1]
    again.load_state_dict(torch.load(saved(file['param_schedulers']), weights_only=True)[0])
    assert again.plan.starts == (0, 2, 4)


def test_another_metric_begins_anew():
    scheduler = chain([dict(ROWS[0], patience=9), *ROWS[1:]])[1]
    scheduler.step()
    scheduler.observe({'id/accuracy': 0.5})
    other = chain([dict(ROWS[0], metric='id/ece'), *ROWS[1:]])[1]
    other.adopt_ends(scheduler.state_dict())
    other.step()
    assert other.observe({'id/ece': 0.7}).improved
