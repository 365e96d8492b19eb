"""Checkpoints load with weights_only; which one is resumed."""

import os
import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from ftsgd_plugin.checkpoint.io import check_readable, latest_checkpoint, read_weights
from ftsgd_plugin.utils.errors import UserError


class Payload:
    """A pickle that runs a command when loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


class Getattr:
    """A pickle that reads an attribute of an allowed class."""

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


def test_plain_pickle_is_not_a_checkpoint(tmp_path):
    (tmp_path / 'a.pth').write_bytes(pickle.dumps(['not', 'a', 'checkpoint'], protocol=4))
    with pytest.raises(UserError, match='cannot be read as a checkpoint'):
        check_readable(str(tmp_path / 'a.pth'))


@pytest.mark.parametrize('content', [{'module.w': torch.ones(2)}, {'state_dict': {'w': torch.ones(2)}, 'meta': {}}])
def test_weights_are_read_with_and_without_training_state_or_wrapper(tmp_path, content):
    torch.save(content, tmp_path / 'a.pth')
    weights = read_weights(str(tmp_path / 'a.pth'))
    assert weights.keys() == {'w'} and torch.equal(weights['w'], torch.ones(2))


def test_packaged_weights_are_read_by_their_scheme():
    assert read_weights('ftsgd://vit-tiny')['cls_token'].ndim == 3


def test_unknown_packaged_weights():
    with pytest.raises(UserError, match=r'ftsgd://vit-huge: not among the packaged weights \(ftsgd://vit-tiny\)'):
        CheckpointLoader.load_checkpoint('ftsgd://vit-huge')


def test_safetensors_are_refused_with_a_remedy(tmp_path):
    from safetensors.torch import save_file

    save_file({'w': torch.zeros(1)}, tmp_path / 'a.safetensors')
    with pytest.raises(UserError, match=r'a\.safetensors: MMEngine does not load safetensors files; name a \.pth'):
        check_readable(str(tmp_path / 'a.safetensors'))


def test_latest_checkpoint_is_the_one_that_training_named(tmp_path):
    for epoch in (1, 2):
        (tmp_path / f'epoch_{epoch}.pth').touch()
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_1.pth\n')
    assert latest_checkpoint(str(tmp_path)) == f'{tmp_path}/epoch_1.pth'
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/epoch_1.pth')
    assert latest_checkpoint(str(tmp_path)) == 's3://bucket/epoch_1.pth'


@pytest.mark.parametrize('pointer', ['', 'gone/epoch_11.pth', None], ids=['empty', 'gone', 'absent'])
@pytest.mark.parametrize('kind', ['epoch', 'iter'])
def test_latest_checkpoint_falls_back_to_the_newest_numbered_one(tmp_path, kind, pointer):
    for name in (f'{kind}_2', f'{kind}_10', f'best_id_accuracy_{kind}_12', f'.{kind}_11', 'iter_x', 'weights'):
        (tmp_path / f'{name}.pth').touch()
    if pointer is not None:
        (tmp_path / 'last_checkpoint').write_text(pointer)
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / f'{kind}_10.pth')


def test_directory_without_a_checkpoint_gives_none_unless_one_was_expected(tmp_path):
    assert latest_checkpoint(str(tmp_path)) is None
    assert latest_checkpoint(str(tmp_path / 'absent')) is None
    (tmp_path / 'best_id_accuracy_epoch_1.pth').touch()  # holds no training state
    assert latest_checkpoint(str(tmp_path)) is None
    (tmp_path / 'last_checkpoint').write_text('gone/epoch_1.pth')
    with pytest.raises(
        UserError, match=r'last_checkpoint: names gone/epoch_1\.pth, which does not exist.*--resume PATH'
    ):
        latest_checkpoint(str(tmp_path))
