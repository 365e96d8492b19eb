"""Checkpoints load with weights_only; nothing else is un-pickled."""

import os
import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from ftsgd_plugin.checkpoints import check_readable
from ftsgd_plugin.errors import UserError
from ftsgd_plugin.fitting import misfits


class Payload:
    """A pickle that runs a command when loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


class Getattr:
    """A pickle that reaches for an attribute of an allowed class."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_mmengines_log_history_loads_with_weights_only(tmp_path):
    hub = MessageHub.get_instance(f'hub{tmp_path}')
    for value in (1.0, 2.0, 3.0):
        hub.update_scalar('train/loss', value)
    hub.update_info('epoch', 3)
    torch.save({'message_hub': hub.state_dict()}, tmp_path / 'a.pth')
    loaded = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert loaded['message_hub']['log_scalars']['train/loss'].mean() == 2.0
    check_readable(str(tmp_path / 'a.pth'))


def test_payload_is_refused_and_not_run(tmp_path):
    marker = tmp_path / 'ran'
    torch.save({'state_dict': {}, 'meta': Payload(marker)}, tmp_path / 'bad.pth')
    with pytest.raises(UserError, match=r'bad\.pth: cannot be read as a checkpoint \(it asks to run code: .*system'):
        check_readable(str(tmp_path / 'bad.pth'))
    assert not marker.exists()


def test_getattr_is_allowed_for_log_statistics_only(tmp_path):
    torch.save({'meta': Getattr()}, tmp_path / 'bad.pth')
    with pytest.raises(UserError, match='refused'):
        torch.load(tmp_path / 'bad.pth', weights_only=True)


@pytest.mark.parametrize('size', [0, 10, 1000])
def test_truncated_file_is_named(tmp_path, size):
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'w': torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r'a\.pth: cannot be read as a checkpoint \(.*\); copy it again') as caught:
        check_readable(str(path))
    assert '\n' not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'a\.pth: no such checkpoint; name the \.pth file'):
        check_readable(str(tmp_path / 'a.pth'))


def test_plain_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / 'a.pth').write_bytes(pickle.dumps(['not', 'a', 'checkpoint'], protocol=4))
    with pytest.raises(UserError, match='cannot be read as a checkpoint'):
        check_readable(str(tmp_path / 'a.pth'))


def test_misfits_name_tensor_and_shapes(vit):
    model = vit()
    weights = model.state_dict()
    assert misfits(model, weights) == []
    del weights['backbone.cls_token']
    weights['head.fc.weight'] = torch.zeros(5, 16)
    weights['extra'] = torch.zeros(1)
    assert misfits(model, weights) == [
        'backbone.cls_token is missing',
        'extra belongs to another model',
        'head.fc.weight is (5, 16) instead of (3, 16)',
    ]


def test_packaged_weights_fill_the_demo_backbone(digits_config):
    from mmpretrain.registry import MODELS

    weights = CheckpointLoader.load_checkpoint('ftsgd://vit-tiny')
    assert misfits(MODELS.build(digits_config().model.backbone), weights) == []


def test_unknown_packaged_weights():
    with pytest.raises(UserError, match=r'ftsgd://vit-huge: not among the packaged weights \(ftsgd://vit-tiny\)'):
        CheckpointLoader.load_checkpoint('ftsgd://vit-huge')
