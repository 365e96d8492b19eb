"""Malformed configs, data sets and arguments of tools: one line and exit code 2 each."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from .files import trained_run
from .place import Outcome, Place, said, table_of

CONFIGS = 'tests/test_tools/test_malformed_configs.py'  # TABLE: text of a child config -> part of the line
DATA_SETS = 'tests/helpers/malformed_data.py'  # FAULTS, FLAT_FAULTS
CLASSES = {'Waterbirds': 2, 'Camelyon17': 2, 'FMoW': 62, 'DomainNet': 40, 'Living17': 17}


def configs(place: Place, count: int) -> Iterator[Outcome]:
    """Child configs of the demo with one mistake each."""
    from helpers.demo_run import write_child

    for text, part in list(table_of(CONFIGS).TABLE.items())[:count]:
        work_dir = place.fresh('malformed')
        result = place.run('tools/train.py', write_child(place.directory, 'malformed.py', text), '--work-dir', work_dir)
        wrong = said(result, also=part)
        if not wrong and list(work_dir.glob('**/*.pth')):
            wrong = 'training had begun'
        yield Outcome(text.replace('\n', '; '), not wrong, wrong)


def data_sets(place: Place, count: int) -> Iterator[Outcome]:
    """Benchmarks with one damaged file each, through ``tools/train.py``."""
    table = table_of(DATA_SETS)
    flat = [(table.Living17, 'meta/val.txt', change, message) for change, message in table.FLAT_FAULTS]
    for number, (kind, name, change, message) in enumerate([*table.FAULTS, *flat][:count]):
        split, tree = table.KINDS[kind]
        if number >= len(table.FAULTS):
            split, tree = 'id_val', {'val/': '', **({} if change is None else table.FLAT)}
        tree = {path: content for path, content in tree.items() if change is not None or not path.startswith(name)}
        if change is not None:
            tree[name] = change(tree.get(name, ''))
        root = place.fresh('benchmark')
        table.write(root, tree)
        result = _train_on(place, kind.__name__, split, root)
        wrong = said(result)
        line = result.stderr.strip().splitlines()[-1] if result.stderr.strip() else ''
        if not wrong and not re.search(f'{root}/' + message.replace('{}', name), line):
            wrong = f'another line: {line[:300]}'
        yield Outcome(f'{kind.__name__}: {message.replace("{}", name)}', not wrong, wrong)


def _train_on(place: Place, kind: str, split: str, root: Path):
    from helpers.demo_run import write_child

    text = (
        f'model = dict(head=dict(num_classes={CLASSES[kind]}))\n'
        # The classes of the digits stay behind.
        f'train_dataloader = dict(dataset=dict(_delete_=True, type={kind!r}, data_root={str(root)!r}, split={split!r}, '
        "pipeline=[dict(type='LoadRGBImage'), dict(type='PackInputs')]))\n"
    )
    return place.run(
        'tools/train.py', write_child(place.directory, 'data.py', text), '--work-dir', place.fresh('data_set_run')
    )


def tool_inputs(place: Place, count: int) -> Iterator[Outcome]:
    """Wrong arguments and files for every tool."""
    for name, words in list(tool_cases(place.directory / 'wrong', *trained_run(place)))[:count]:
        wrong = said(place.run(f'tools/{name}.py', *words))
        yield Outcome(
            f'{name} {" ".join(str(word).removeprefix(str(place.directory) + "/") for word in words)}', not wrong, wrong
        )


def tool_cases(wrong: Path, config: Path, work_dir: Path) -> Iterator[tuple[str, list]]:
    """Tools with the arguments that they should refuse.

    Args:
        wrong: Directory for the files that are wrong.
        config, work_dir: A config and its finished run.
    """
    checkpoint = work_dir / 'epoch_1.pth'
    wrong.mkdir(exist_ok=True)
    files = {
        'empty.py': b'',
        'syntax.py': b'model = dict(',
        'binary.py': bytes(range(256)),
        'number.py': b'raise ValueError("on purpose")\n',
        'no_base.py': b'_base_ = "nowhere.py"\n',
        'no_module.py': b'import no_such_module\n',
    }
    for name, content in files.items():
        (wrong / name).write_bytes(content)
    (wrong / 'run').mkdir(exist_ok=True)
    (wrong / 'run/record.json').write_text('{"lr": ')
    bad = [wrong / name for name in files] + [wrong, wrong / 'absent.py']

    # Config files, for every tool that reads one.
    readers = {
        'train': [],
        'test': [checkpoint],
        'print_layers': [],
        'diagnose': [],
        'layer_grads': ['--out', wrong / 'out'],
        'resources': ['--plan-only'],
        'sweep': ['--dry-run'],
    }
    for (name, more), file in itertools.product(readers.items(), bad):
        yield name, [file, *more]
    # Arguments that are missing, unknown or out of range.
    for name in (*readers, 'report', 'tables', 'wise_ft', 'prepare_data'):
        if name not in ('resources',):
            yield name, []
        yield name, [config, '--no-such-option']
    yield from (
        ('train', [config, '--cfg-options', 'optim_wrapper']),
        ('train', [config, '--cfg-options', 'train_cfg.max_epochs=none']),
        ('train', [config, '--resume', wrong / 'absent.pth']),
        ('train', [config, '--resume', wrong]),
        ('train', [config, '--work-dir', config]),
        ('train', [config, '--work-dir', '/dev/null/runs']),
        ('train', [config, '--launcher', 'shell']),
        ('test', [config, wrong / 'absent.pth']),
        ('test', [config, wrong]),
        ('test', [config, config]),
        ('test', [config, checkpoint, '--out', wrong / 'metrics.txt']),
        ('test', [config, checkpoint, '--out-item', 'all']),
        ('print_layers', [config, '--freeze', 'blok']),
        ('print_layers', [config, '--json', wrong]),
        ('print_layers', [config, '--json', wrong / 'no/such/directory.json']),
        ('diagnose', [config, '--batches', '0']),
        ('diagnose', [config, '--batches', 'x']),
        ('diagnose', [config, '--memory', 'much']),
        ('diagnose', [config, '--device', 'tpu']),
        ('layer_grads', [config, '--batches', '0']),
        ('resources', [config, '--methods', 'sgdd']),
        ('resources', [config, '--batch-size', '0']),
        ('resources', ['--models', 'vit-huge']),
        ('resources', [config, '--autocast', 'float8']),
        ('report', [wrong / 'absent']),
        ('report', [work_dir, '--rule', 'best']),
        ('report', [work_dir, '--out', wrong]),
        ('tables', [wrong / 'absent']),
        ('tables', [work_dir, '--format', 'pdf']),
        ('tables', [work_dir, '--rule', 'best']),
        ('wise_ft', [wrong / 'absent']),
        ('wise_ft', [wrong / 'run']),
        ('wise_ft', [work_dir, '--alphas', '2']),
        ('wise_ft', [work_dir, '--alphas', 'x']),
        ('wise_ft', [work_dir, '--checkpoint', wrong / 'absent.pth']),
        ('prepare_data', ['imagenet', wrong]),
        ('prepare_data', ['waterbirds', wrong / 'absent']),
        ('prepare_data', ['waterbirds', config]),
        ('prepare_data', ['fmow', wrong, '--workers', 'x']),
        ('make_digits', [config]),
        ('make_digits', [wrong / 'digits', '--seed', 'x']),
    )
