"""Training the chain through phases of freezing, alone or on two ranks."""

from pathlib import Path

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy

from ftsgd_plugin.freezing import freeze_layers, select_layers
from ftsgd_plugin.layers import list_layers, unwrap
from ftsgd_plugin.optim.ddp import follow_trained_parameters
from ftsgd_plugin.utils.errors import UserError
from helpers.chain import Chain, batch

STEPS_PER_PHASE = 4
PHASES = ['embed', 'none', ['stem', 'blocks.*'], 'embed']  # frozen, everything trains, almost all frozen, frozen


def train(model, rank: int, world: int, accumulate: int, phases=PHASES) -> list[torch.Tensor]:
    """Train through phases of freezing; return the weights after every step."""
    cfg = dict(
        optimizer=dict(type='SGD', lr=0.3, momentum=0.9, weight_decay=0.01),
        constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
        paramwise_cfg=dict(freeze='none'),
        accumulative_counts=accumulate,
    )
    inner = unwrap(model)
    layers = list_layers(model)
    optim_wrapper = build_optim_wrapper(model, cfg)
    optim_wrapper.initialize_count_status(inner, 0, STEPS_PER_PHASE * len(phases))
    history = []
    for step in range(STEPS_PER_PHASE * len(phases)):
        if step % STEPS_PER_PHASE == 0:
            freeze_layers(model, select_layers(layers, phases[step // STEPS_PER_PHASE]))
        inputs, labels = (part[rank::world] for part in batch(step))
        with optim_wrapper.optim_context(model):
            loss = cross_entropy(model(inputs), labels)
        optim_wrapper.update_params(loss)
        history.append(torch.cat([param.detach().flatten() for param in inner.parameters()]))
    return history


def train_every_case(rank: int, directory: Path) -> None:
    """Without and with accumulation, with a communication hook, and with a static graph; saves weights per case."""
    for accumulate in (1, 2):
        model = MMDistributedDataParallel(Chain(), device_ids=None, broadcast_buffers=False)
        torch.save(train(model, rank, 2, accumulate), directory / f'{accumulate}_{rank}.pt')
    hooked = MMDistributedDataParallel(Chain(), device_ids=None, broadcast_buffers=False)
    seen = []
    hooked.register_comm_hook((hooked, seen), _noting_allreduce)
    torch.save((train(hooked, rank, 2, 1), seen), directory / f'hooked_{rank}.pt')
    static = MMDistributedDataParallel(Chain(), device_ids=None, broadcast_buffers=False, static_graph=True)
    history, refusal = train(static, rank, 2, 1, ['embed']), None
    follow_trained_parameters(static, unwrap(static))  # the hooks left the model with its optimizer
    freeze_layers(static, [])
    try:
        static(batch(0)[0])
    except UserError as error:
        refusal = str(error)
    torch.save((history, refusal), directory / f'static_{rank}.pt')


def _noting_allreduce(state, bucket):
    """Torch's own reduction; notes how much was reduced and whether DDP has rebuilt its buckets."""
    wrapper, seen = state
    seen.append((bucket.buffer().numel(), wrapper._has_rebuilt_buckets))
    return allreduce_hook(None, bucket)
