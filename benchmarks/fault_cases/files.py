"""Damaged checkpoints, files that run code when they are read, full disks."""

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

from .place import Outcome, Place, said, train_words

ONE_EPOCH = 'train_cfg = dict(max_epochs=1)\n'


def trained_run(place: Place, name: str = 'trained') -> tuple[Path, Path]:
    """A config and its finished run, trained once."""
    config, work_dir = place.small_config(f'{name}.py', ONE_EPOCH), place.directory / name
    if not (work_dir / 'epoch_1.pth').exists():
        result = place.train(config, work_dir)
        assert result.returncode == 0, result.stderr
    return config, work_dir


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """72 damages of a checkpoint, the kinds in turn."""
    size = len(content)
    for k in range(24):
        position = 2000 + k * (size - 4000) // 24
        flipped = bytearray(content)
        flipped[position] ^= 1 << k % 8
        yield f'bit {k % 8} of byte {position} flipped', bytes(flipped)
        block = position // 4096 * 4096
        yield f'4 KiB at {block} zeroed', content[:block] + bytes(4096) + content[block + 4096 :]
        if k < 16:
            yield f'cut at {k}/16', content[: size * k // 16]
    yield 'empty archive', b'PK\x05\x06' + bytes(18)
    yield 'text', b'not a checkpoint\n' * 1000
    yield 'HTML', b'<html><body>404 Not Found</body></html>'
    yield 'twice the file', content + content
    yield 'first MiB doubled', content[: 2**20] + content
    yield 'NUL bytes', bytes(size)
    yield 'a pickled number', pickle.dumps(3)
    yield 'a pickled list', pickle.dumps(['state_dict'])


def checkpoints(place: Place, count: int) -> Iterator[Outcome]:
    """A damaged checkpoint is refused in one line, or nothing that is read has changed (padding)."""
    config, work_dir = trained_run(place)
    content = (work_dir / 'epoch_1.pth').read_bytes()
    expected = _accuracy(place, config, work_dir / 'epoch_1.pth')
    damaged = place.directory / 'damaged.pth'
    for case, changed in list(damages(content))[:count]:
        damaged.write_bytes(changed)
        result = _test(place, config, damaged)
        if result.returncode == 0:
            found = _accuracy(place, config, damaged)
            same = found == expected and _weights_equal(damaged, work_dir / 'epoch_1.pth')
            yield Outcome(case, same, '' if same else 'accepted with other weights')
        else:
            wrong = said(result, also='damaged.pth')
            yield Outcome(case, not wrong, wrong)


def _test(place: Place, config: Path, checkpoint: Path):
    out = place.directory / 'test.json'
    out.unlink(missing_ok=True)
    words = ['--work-dir', place.directory / 'tested', '--out', out, '--out-item', 'metrics']
    options = [word.replace('val_', 'test_') for word in train_words(config, out)[-2:]]
    return place.run('tools/test.py', config, checkpoint, *words, '--cfg-options', *options)


def _accuracy(place: Place, config: Path, checkpoint: Path) -> str:
    result = _test(place, config, checkpoint)
    assert result.returncode == 0, result.stderr
    return (place.directory / 'test.json').read_text()


def _weights_equal(one: Path, other: Path) -> bool:
    import torch

    loaded = [torch.load(path, map_location='cpu', weights_only=True)['state_dict'] for path in (one, other)]
    return all(torch.equal(value, loaded[1][key]) for key, value in loaded[0].items())


class _Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gadgets(mark: Path) -> dict:
    """Ten ways of a pickle to create the file ``mark``."""
    import runpy
    import subprocess

    script = mark.with_name('gadget.py')
    script.write_text(f'open({str(mark)!r}, "w")\n')
    text = f'open({str(mark)!r}, "w")'
    return {
        'os.system': _Call(os.system, f'touch {mark}'),
        'builtins.eval': _Call(eval, text),
        'builtins.exec': _Call(exec, text),
        'builtins.open': _Call(open, str(mark), 'w'),
        'subprocess.call': _Call(subprocess.call, ['touch', str(mark)]),
        'runpy.run_path': _Call(runpy.run_path, str(script)),
        'shutil.copy': _Call(shutil.copy, str(script), str(mark)),
        'os.mkdir': _Call(os.mkdir, str(mark)),
        'os.link': _Call(os.link, str(script), str(mark)),
        'Path.touch': _Call(Path.touch, mark),
    }


def malicious(place: Place, count: int) -> Iterator[Outcome]:
    """Files that would run code when un-pickled: nothing runs, and the program ends with one line."""
    import torch

    config, work_dir = trained_run(place)
    mark, file = place.directory / 'executed', place.directory / 'malicious.pth'
    honest = torch.load(work_dir / 'epoch_1.pth', map_location='cpu', weights_only=True)
    cases = [
        (gadget, place_, zipped)
        for gadget in gadgets(mark)
        for place_ in ('state_dict', 'message_hub')
        for zipped in (True, False)
    ]
    cases = [(*case, 'test' if i % 2 else 'resume') for i, case in enumerate(cases)]
    for gadget, where, zipped, way in cases[:count]:
        torch.save({**honest, where: {'x': gadgets(mark)[gadget]}}, file, _use_new_zipfile_serialization=zipped)
        if way == 'test':
            result = _test(place, config, file)
        else:
            result = place.train(config, place.fresh('malicious'), '--resume', file)
        executed = mark.exists()
        wrong = 'the code was run' if executed else said(result, also='malicious.pth')
        if executed:
            shutil.rmtree(mark) if mark.is_dir() else mark.unlink()
        yield Outcome(f'{gadget} in {where}, {"zip" if zipped else "old format"}, {way}', not wrong, wrong)


LIMIT = Path(__file__).with_name('limited.py')
FULL_FILES = ('epoch_1.pth', 'best_id_accuracy_epoch_1.pth', 'record.json', 'trained.py')
LIMITS = (200, 1000, 3000, 10_000, 100_000)


def full_disk(place: Place, count: int) -> Iterator[Outcome]:
    """No room for one file (its temporary name leads to ``/dev/full``), or for any file beyond a size."""
    config, trained = trained_run(place)
    cases = [*FULL_FILES, *LIMITS, *_tool_cases(place, config, trained)]
    for case in cases[:count]:
        if isinstance(case, tuple):
            name, file, words = case
            temporary = _full(file)
            result, left, also = place.run(*words), file.parent, file.name
        else:
            work_dir = place.fresh('full')
            if isinstance(case, str):
                work_dir.mkdir()
                name, temporary, also = f'no room for {case}', _full(work_dir / case), case
                result = place.train(config, work_dir)
            else:
                name, temporary, also = f'no file beyond {case} bytes', None, ''
                result = place.run(LIMIT, case, 'tools/train.py', *train_words(config, work_dir))
            left = work_dir
        wrong = said(result, also=also)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        rests = [path.name for path in left.rglob('.*.tmp')]
        if not wrong and rests:
            wrong = f'left behind: {", ".join(rests)}'
        yield Outcome(name, not wrong, wrong)


def _full(file: Path) -> Path:
    """Let the temporary name of a file lead to a device that has no room."""
    from ftsgd_plugin.utils.files import temporary_name

    temporary = file.with_name(temporary_name(file.name))
    temporary.unlink(missing_ok=True)
    temporary.symlink_to('/dev/full')
    return temporary


def _tool_cases(place: Place, config: Path, trained: Path) -> list[tuple[str, Path, list]]:
    """Name, file without room, and the command that writes it."""
    out = place.directory / 'outputs'
    out.mkdir(exist_ok=True)
    checkpoint = trained / 'epoch_1.pth'
    commands = {
        'layers.json': ['tools/print_layers.py', config, '--json', out / 'layers.json'],
        'report.html': ['tools/report.py', trained, '--out', out / 'report.html'],
        'metrics.json': [
            *('tools/test.py', config, checkpoint, '--work-dir', out / 'tested'),
            *('--out', out / 'metrics.json', '--out-item', 'metrics'),
        ],
        'diagnosis.json': [
            'tools/diagnose.py',
            config,
            '--batches',
            '1',
            '--out',
            out,
            '--json',
            out / 'diagnosis.json',
        ],
    }
    return [(f'no room for {name}', out / name, words) for name, words in commands.items()]
