"""Copies of optimizer state to return to: of tensors in tensors, and what cannot be copied."""

import pytest
import torch

from ftsgd_plugin.optim.snapshots import refuse_snapshots, restore_snapshot, take_snapshot
from ftsgd_plugin.utils.errors import UserError


def test_moments_of_8_bits_are_copied_and_not_shared():
    subclass = pytest.importorskip('torchao.optim.subclass_8bit').OptimState8bit
    model = torch.nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    moment = subclass.zeros((4, 4), signed=True, block_size=4)
    moment.copy_(torch.eye(4))
    optimizer.state[model.weight]['exp_avg'] = moment
    snapshot = take_snapshot(model, [optimizer])
    moment.copy_(torch.full((4, 4), 3.0))
    restore_snapshot(model, [optimizer], snapshot)
    assert torch.allclose(moment.dequantize(), torch.eye(4))


def test_an_optimizer_whose_state_is_not_made_of_tensors_is_refused():
    optimizer = type('FlashSGD', (), {'__module__': 'flashoptim.optimizers', 'param_groups': []})()
    with pytest.raises(UserError, match='restore_best cannot copy the state of an optimizer of flashoptim'):
        refuse_snapshots(torch.nn.Linear(1, 1), [optimizer])
