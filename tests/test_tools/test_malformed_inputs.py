"""A hundred malformed inputs to the programs of tools/: each ends with code 2 and one line, in this process."""

import pytest
from helpers.demo_run import CONFIG
from helpers.small_runs import make_small_runs_cheap

FILES = {
    'empty.py': b'',
    'syntax.py': b'model = dict(',
    'raises.py': b'a = 1 / 0',
    'binary.py': bytes(range(256)),
    'text.txt': b'model',
    'broken.json': b'{"model": ',
    'list.yaml': b'- 1\n- 2\n',
    'model_is_text.py': b'model = "ViT"',
    'unknown_model.py': b'model = dict(type="ImageClasifier")',
    'empty.pth': b'',
    'text.pth': b'weights',
    'zip.pth': b'PK\x03\x04' + bytes(64),
}
CONFIGS = ('absent.py', '', 'directory', *[name for name in FILES if not name.endswith('.pth')])
CHECKPOINTS = ('absent.pth', 'directory', 'empty.pth', 'text.pth', 'zip.pth')
CASES = [
    *(('train', path) for path in CONFIGS),
    *(('test', path, 'absent.pth') for path in CONFIGS),
    *(('diagnose', path) for path in CONFIGS),
    *(('layer_grads', path) for path in CONFIGS),
    *(('print_layers', path) for path in CONFIGS),
    *(('resources', path, '--plan-only') for path in CONFIGS),
    *(('sweep', path, '--dry-run') for path in CONFIGS),
    *(('test', CONFIG, path, '--work-dir', 'out') for path in CHECKPOINTS),
    *(('train', CONFIG, '--work-dir', 'out', '--resume', path) for path in CHECKPOINTS),
    *(('wise_ft', path) for path in ('absent', '', 'directory', 'text.txt')),
    *((tool, path) for tool in ('tables', 'report') for path in ('absent', 'directory')),
    ('train', CONFIG, '--launcher', 'ssh'),
    ('train', CONFIG, '--local-rank', 'x'),
    ('train', CONFIG, '--work-dir', 'text.txt'),
    ('test', CONFIG, 'absent.pth', '--out', 'out.txt'),
    ('test', CONFIG, 'absent.pth', '--out-item', 'all'),
    ('diagnose', CONFIG, '--batches', '0'),
    ('diagnose', CONFIG, '--batches', 'many'),
    ('diagnose', CONFIG, '--memory', '8XB'),
    ('diagnose', CONFIG, '--memory', '-1GiB'),
    ('diagnose', CONFIG, '--json', 'absent/answer.json'),
    ('diagnose', CONFIG, '--cfg-options', 'optim_wraper.lr=1'),
    ('layer_grads', CONFIG, '--device', 'tpu'),
    ('layer_grads', CONFIG, '--cfg-options', 'lr'),
    ('print_layers', CONFIG, '--freeze', 'nothing'),
    ('print_layers', CONFIG, '--json', 'absent/layers.json'),
    ('resources', '--models', 'vit-huge', '--plan-only'),
    ('resources', CONFIG, '--methods', 'adamax', '--plan-only'),
    ('resources', CONFIG, '--batch-size', '0', '--plan-only'),
    ('resources', CONFIG, '--batch-size', '-4', '--plan-only'),
    ('resources', CONFIG, '--batch-size', 'x'),
    ('resources', CONFIG, '--steps', '0'),
    ('resources', CONFIG, '--rounds', '0'),
    ('resources', CONFIG, '--device', 'tpu'),
    ('resources',),
    ('sweep', 'demo_plan.py', '--index', '99'),
    ('sweep', 'demo_plan.py', '--index', '-1'),
    ('sweep', 'demo_plan.py', '--gpus-per-run', '2'),
    ('sweep', 'demo_plan.py', '--gpus-per-run', 'half'),
    ('sweep', 'demo_plan.py', '--workers', '0'),
    ('sweep', 'demo_plan.py', '--cpus-per-run', '0'),
    ('sweep', 'demo_plan.py', '--out', 'text.txt', '--dry-run'),
    ('tables', '.', '--rule', 'best'),
    ('tables', '.', '--format', 'pdf'),
    ('tables', '.', '--csv', 'absent/runs.csv'),
    ('report', '.', '--out', 'absent/report.html'),
    ('prepare_data', 'imagenet', '.'),
    ('prepare_data', 'waterbirds', 'absent'),
    ('prepare_data', 'waterbirds', 'text.txt'),
    ('prepare_data', 'fmow', 'directory'),
    ('prepare_data', 'waterbirds', 'data/digits', '--scan', '--workers', '0'),
    ('prepare_data', 'waterbirds', 'data/digits', '--scan', '--workers', '-2'),
    ('make_digits', 'text.txt'),
    ('make_digits', 'out', '--seed', 'x'),
    ('make_digits', 'out', '--seed', '-1'),
    ('demo', '--methods', 'adamax'),
    ('demo', '--epochs', '0'),
    ('demo', '--seeds', 'x'),
    ('demo', '--workers', '0'),
    ('wise_ft', 'directory', '--alphas', '2'),
    ('wise_ft', 'directory', '--alphas', 'x'),
]


@pytest.fixture(scope='module')
def inputs(tmp_path_factory, digits_root):
    import ftsgd_plugin.runner.build  # noqa: F401

    make_small_runs_cheap()
    root = tmp_path_factory.mktemp('inputs')
    for name, content in FILES.items():
        (root / name).write_bytes(content)
    (root / 'directory').mkdir()
    (root / 'data').mkdir()
    (root / 'data/digits').symlink_to(digits_root)
    (root / 'demo_plan.py').write_text(f'configs = [{str(CONFIG)!r}]\nlrs = [1e-3]\nseeds = [0]\n')
    return root


def test_the_table_is_long_enough():
    assert len(CASES) >= 90


@pytest.mark.parametrize('case', CASES, ids=lambda case: ' '.join(map(str, case)).replace(str(CONFIG), 'CONFIG'))
def test_malformed_input_is_one_line(inputs, run_tool, monkeypatch, case):
    monkeypatch.chdir(inputs)
    code, err = run_tool(*case)
    lines = [line for line in err.splitlines() if line.startswith(('error: ', f'{case[0]}.py: error: '))]
    assert code == 2 and len(lines) == 1 and err.splitlines()[-1] == lines[0], err
    assert 'Traceback' not in err
