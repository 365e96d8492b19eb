"""Damage in a weight file is found before any of it is used, wherever it is read."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import torch
from mmengine.model import initialize
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from ftsgd_plugin.checkpoint import integrity, io
from ftsgd_plugin.checkpoint.compatibility import check_pretrained
from ftsgd_plugin.checkpoint.integrity import damage
from ftsgd_plugin.checkpoint.io import check_readable, checkpoint_to_resume, read_weights
from ftsgd_plugin.models.pretrained import read_tensors, report_filled
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.files import sha256

ADVICE = ('weights_only', 'weights only', 'trust', 'torch.load')


@pytest.fixture(autouse=True)
def forget():
    """Files of one size, written within one tick of the clock, look alike."""
    integrity._whole.clear()


@pytest.fixture
def whole(tmp_path) -> Path:
    """A checkpoint whose largest tensor has 64 KiB."""
    generator = torch.Generator().manual_seed(0)
    weights = {f'layers.{i}.weight': torch.randn(128, 128, generator=generator) for i in range(4)}
    optimizer = {'state': {0: {'momentum_buffer': torch.randn(128, 128)}}, 'param_groups': [{'params': [0]}]}
    torch.save({'state_dict': weights, 'optimizer': optimizer, 'meta': {}}, tmp_path / 'epoch_2.pth')
    return tmp_path / 'epoch_2.pth'


def tensors_of(content: dict) -> list[torch.Tensor]:
    return [*content['state_dict'].values(), content['optimizer']['state'][0]['momentum_buffer']]


def flipped(content: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


def test_no_flipped_bit_lost_block_or_cut_gives_other_weights(whole):
    """120 damages all over the file: each is refused in one line, or nothing that is read changes (padding)."""
    content, expected = whole.read_bytes(), tensors_of(torch.load(whole, weights_only=True))
    size = len(content)
    damages = [flipped(content, position, k % 8) for k, position in enumerate(range(7, size, size // 80))]
    damages += [content[:at] + bytes(4096) + content[at + 4096 :] for at in range(0, size - 4096, size // 24)]
    damages += [content[: size * k // 16] for k in range(16)]
    assert len(damages) >= 120
    refused, silent = 0, 0
    for damaged in damages:
        whole.write_bytes(damaged)
        integrity._whole.clear()
        try:
            found = tensors_of(check_readable(str(whole)))
        except UserError as error:
            refused += 1
            message = str(error)
            assert message.startswith(f'{whole}: cannot be read as a checkpoint (it is ') and '\n' not in message
            assert not any(word in message for word in ADVICE), message
        else:
            silent += 1
            assert all(torch.equal(one, other) for one, other in zip(found, expected))
    assert refused >= 115 and silent <= 5


def test_torch_alone_does_not_notice(whole):
    """Otherwise the test above would show nothing."""
    content, expected = whole.read_bytes(), tensors_of(torch.load(whole, weights_only=True))
    position = content.index(expected[2].numpy().tobytes()) + 1000
    whole.write_bytes(flipped(content, position, 6))
    found = tensors_of(torch.load(whole, weights_only=True))
    assert not torch.equal(found[2], expected[2])


def damaged_copy(path: Path, name: str = 'damaged.pth', places: int = 2) -> Path:
    copy = path.with_name(name)
    copy.write_bytes(flipped(path.read_bytes(), path.stat().st_size // places, 4))
    return copy


def test_every_reader_refuses_it(whole, vit, tmp_path):
    """Tools and hooks, MMEngine's own loader (``init_cfg``, publishing), and the weights of timm and open_clip."""
    bad = str(damaged_copy(whole))
    model = vit()
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint=bad)
    torch.jit.save(torch.jit.script(torch.nn.Linear(64, 64)), str(tmp_path / 'tower.pt'))
    archive = damaged_copy(tmp_path / 'tower.pt', 'tower_damaged.pt')
    read_tensors(tmp_path / 'tower.pt', 'a tower')
    for read in (
        lambda: check_readable(bad),
        lambda: read_weights(bad),
        lambda: CheckpointLoader.load_checkpoint(bad, map_location='cpu'),
        lambda: check_pretrained(model),
        lambda: initialize(model.backbone, model.backbone.init_cfg),
        lambda: read_tensors(Path(bad), 'weights'),
        lambda: read_tensors(archive, 'a tower'),
    ):
        with pytest.raises(UserError, match=r'cannot be read .*\(it is damaged or incomplete: ') as caught:
            read()
        assert '\n' not in str(caught.value)


def test_a_file_is_read_once(whole, monkeypatch):
    """The loader compares again what the check before it has compared; that costs nothing."""
    opened = []
    real = integrity.zipfile.ZipFile
    monkeypatch.setattr(integrity.zipfile, 'ZipFile', lambda *args: opened.append(args) or real(*args))
    for _ in range(3):
        assert damage(whole) is None
    assert len(opened) == 1
    damaged_copy(whole, whole.name)
    assert damage(whole) is not None


def test_formats_without_checksums_get_a_warning(whole, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(integrity, 'print_log', lambda text, *args: warnings.append(text))
    content = torch.load(whole, weights_only=True)
    torch.save(content, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    with torch.utils.serialization.config.patch('save.compute_crc32', False):
        torch.save(content, tmp_path / 'unchecked.pth')
    for name in ('old.pth', 'unchecked.pth', 'epoch_2.pth'):
        check_readable(str(tmp_path / name))
    assert [Path(text.split(':')[0]).name for text in warnings] == ['old.pth', 'unchecked.pth']
    assert all('has no checksums' in text for text in warnings)


def test_old_format_that_is_cut_off_is_refused_without_advice(whole, tmp_path):
    torch.save(torch.load(whole, weights_only=True), tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'old.pth').read_bytes()
    for size in (0, 10, 200, len(content) // 2, len(content) - 1):
        (tmp_path / 'old.pth').write_bytes(content[:size])
        with pytest.raises(UserError, match=r'old\.pth: cannot be read as a checkpoint \(it ') as caught:
            check_readable(str(tmp_path / 'old.pth'))
        assert not any(word in str(caught.value) for word in ADVICE)


def test_safetensors_must_be_what_their_header_says(tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_file({'a': torch.zeros(16), 'b': torch.ones(4, 4)}, path)
    assert damage(path) is None
    content = path.read_bytes()
    for damaged in (content[:-1], content + b'\0', content[:5], content[:40], flipped(content, 2, 0), b'{' * 64):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r'weights\.safetensors: cannot be read \(it is (damaged|incomplete)'):
            read_tensors(path, 'weights')


def test_packaged_weights_have_a_stored_digest(tmp_path, monkeypatch):
    for file in (Path(io.__file__).parents[1] / 'models/weights').iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(io, '_PACKAGED', tmp_path)
    assert io.load_packaged('ftsgd://vit-tiny')
    damaged_copy(tmp_path / 'vit-tiny.safetensors', 'vit-tiny.safetensors')
    with pytest.raises(UserError, match=r'vit-tiny\.safetensors: is damaged: its SHA-256 is not the stored one'):
        io.load_packaged('ftsgd://vit-tiny')


def test_files_of_the_hubs_cache_have_the_digest_in_their_name(whole, tmp_path):
    (tmp_path / 'blobs').mkdir()
    blob = tmp_path / 'blobs' / sha256(whole)
    shutil.copy(whole, blob)
    (tmp_path / 'model.bin').symlink_to(blob)
    report_filled(torch.nn.Linear(1, 1), 'a net', tmp_path / 'model.bin')
    blob.write_bytes(flipped(blob.read_bytes(), 9000, 1))
    with pytest.raises(UserError, match=r'is damaged: its SHA-256 is [0-9a-f]{64}; remove it to download it again'):
        report_filled(torch.nn.Linear(1, 1), 'a net', tmp_path / 'model.bin')


def test_downloaded_files_are_compared_too(whole, tmp_path, monkeypatch):
    """MMEngine keeps them in torch's hub cache."""
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    damaged_copy(whole)
    handler = functools.partial(QuietHandler, directory=str(whole.parent))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}'
        load = functools.partial(CheckpointLoader.load_checkpoint, map_location='cpu')
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
        assert load(f'{url}/epoch_2.pth').keys() == {'state_dict', 'optimizer', 'meta'}
        with pytest.raises(UserError, match=r'hub/checkpoints/damaged\.pth: .*; remove it to download it again'):
            load(f'{url}/damaged.pth')
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a directory and logs nothing."""

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def work_dir(whole) -> Path:
    """Three checkpoints; ``last_checkpoint`` names the newest."""
    for name in ('epoch_1.pth', 'epoch_3.pth', 'best_id_accuracy_epoch_3.pth', 'epoch_9.pth'):
        shutil.copy(whole, whole.with_name(name))
    (whole.parent / 'last_checkpoint').write_text(str(whole.with_name('epoch_3.pth')))
    return whole.parent


def test_resuming_falls_back_to_the_newest_whole_checkpoint_and_names_both(work_dir, monkeypatch):
    said = []
    monkeypatch.setattr('ftsgd_plugin.checkpoint.io.print_log', lambda text, *args: said.append(text))
    assert checkpoint_to_resume(str(work_dir)) == str(work_dir / 'epoch_3.pth') and not said
    for name in ('epoch_3.pth', 'epoch_2.pth'):
        damaged_copy(work_dir / name, name)
        older = work_dir / f'epoch_{int(name[6]) - 1}.pth'
        assert checkpoint_to_resume(str(work_dir)) == str(older)
        assert said[-1].startswith(f'{work_dir}/epoch_3.pth: it is damaged') and f'checkpoint, {older}.' in said[-1]
    (work_dir / 'previous').mkdir()
    shutil.move(work_dir / 'epoch_1.pth', work_dir / 'previous/epoch_1.pth')
    assert checkpoint_to_resume(str(work_dir)) == str(work_dir / 'previous/epoch_1.pth')


def test_without_a_whole_checkpoint_the_line_says_so(work_dir):
    """A later file of another run (``epoch_9.pth``) and the best one, without optimizer, are none."""
    for name in ('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'):
        (work_dir / name).write_bytes((work_dir / name).read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r'epoch_3\.pth: it is damaged .*has no older whole checkpoint to resume'
    ) as error:
        checkpoint_to_resume(str(work_dir))
    assert '--resume PATH' in str(error.value) and '\n' not in str(error.value)


def test_tools_refuse_a_damaged_checkpoint_and_resume_from_the_one_before(digits_config, tmp_path, run_tool):
    """The demo keeps one checkpoint and the one before it; with neither whole, the line says so."""
    config, work_dir = tmp_path / 'config.py', tmp_path / 'work'
    digits_config('freeze-embed', 32, **{'train_cfg.max_epochs': 2}).dump(config)
    assert run_tool('train', config)[0] == 0
    assert (work_dir / 'previous/epoch_1.pth').is_file() and not (work_dir / 'epoch_1.pth').exists()
    before = torch.load(work_dir / 'epoch_2.pth', weights_only=True)
    damaged_copy(work_dir / 'epoch_2.pth', 'epoch_2.pth')
    for name, *arguments in (
        ('test', config, work_dir / 'epoch_2.pth'),
        ('train', config, '--resume', work_dir / 'epoch_2.pth'),
        ('train', config, '--cfg-options', f'load_from={work_dir}/epoch_2.pth'),
        ('wise_ft', work_dir, '--checkpoint', work_dir / 'epoch_2.pth'),
    ):
        code, err = run_tool(name, *arguments)
        line = err.splitlines()[-1]
        assert code == 2 and 'epoch_2.pth: cannot be read as a checkpoint (it is damaged or incomplete' in line, err
        assert 'Traceback' not in err
    code, err = run_tool('train', config, '--resume')
    assert code == 0, err
    said = run_tool.stdout + err
    assert 'epoch_2.pth: it is damaged' in said and f'checkpoint, {work_dir}/previous/epoch_1.pth.' in said
    after = torch.load(work_dir / 'epoch_2.pth', weights_only=True)
    assert all(torch.equal(after['state_dict'][name], value) for name, value in before['state_dict'].items())
    for path in (work_dir / 'epoch_2.pth', *(work_dir / 'previous').iterdir()):
        damaged_copy(path, path.name)
    code, err = run_tool('train', config, '--resume')
    assert code == 2 and 'has no older whole checkpoint to resume from' in err.splitlines()[-1]
