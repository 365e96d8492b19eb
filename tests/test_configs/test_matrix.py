"""The experiment matrix: 7 models x 6 methods x 5 datasets, each config against the paper's protocol."""

import ast
import importlib.util
import itertools
import sys
from copy import deepcopy

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ftsgd_plugin.paper.published import paper_results

# Model: parameters that freeze-embed freezes.
MODEL_FROZEN = {
    'clip-vit-b16': 591_360,
    'clip-vit-l14': 604_160,
    'vit-b16': 590_592,
    'dino-vit-b16': 590_592,
    'convnext-b': 422_016,
    'bit-r50': 224_320,
    'bit-r101': 224_320,
}
SGD_LRS, ADAMW_LRS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)
# Method: optimizer, momentum, weight decay, frozen layers, schedule, learning rates.
METHODS = {
    'sgd': ('SGD', 0.9, 0.0, 'none', 'CosineAnnealingLR', SGD_LRS),
    'adamw': ('AdamW', None, 0.01, 'none', 'CosineAnnealingLR', ADAMW_LRS),
    'freeze-embed': ('SGD', 0.9, 0.0, 'embed', 'CosineAnnealingLR', SGD_LRS),
    'adamw-freeze-embed': ('AdamW', None, 0.01, 'embed', 'CosineAnnealingLR', ADAMW_LRS),
    'freeze-embed-no-momentum': ('SGD', 0.0, 0.0, 'embed', 'CosineAnnealingLR', SGD_LRS),
    'gradual-unfreezing': ('SGD', 0.9, 0.0, 'embed', 'GradualUnfreezingLR', ADAMW_LRS),
}
# Dataset: type, classes, epochs.
DATASETS = {
    'living17': ('Living17', 17, 20),
    'waterbirds': ('Waterbirds', 2, 20),
    'domainnet': ('DomainNet', 40, 50),
    'fmow': ('FMoW', 62, 5),
    'camelyon': ('Camelyon17', 2, 3),
}
BEST_LRS = {  # the authors', of CLIP ViT-B/16, by dataset in the order above
    'sgd': (1e-4, 3e-5, 3e-5, 3e-4, 1e-4),
    'adamw': (3e-6, 3e-6, 3e-6, 1e-5, 3e-6),
    'freeze-embed': (1e-4, 3e-4, 1e-4, 3e-4, 3e-4),
    'gradual-unfreezing': (3e-5, 1e-4, 1e-5, 1e-4, 3e-5),
}
MATRIX = list(itertools.product(MODEL_FROZEN, METHODS, DATASETS))
PAIRS = list(itertools.product(MODEL_FROZEN, METHODS))


@pytest.fixture(scope='module')
def configs() -> dict[tuple[str, str, str], Config]:
    """Every config of the matrix, read once."""
    return {cell: Config.fromfile(ROOT / f'configs/{"_".join(cell)}.py') for cell in MATRIX}


@pytest.fixture(scope='module')
def parts() -> dict[str, Config]:
    """Every part by its path below ``_base_``."""
    base = ROOT / 'configs/_base_'
    return {str(path.relative_to(base).with_suffix('')): Config.fromfile(path) for path in base.rglob('*.py')}


def test_the_files_are_what_the_generator_writes(run_tool):
    code, err = run_tool('maintain/make_configs', '--check')
    assert (code, err) == (0, ''), run_tool.stdout


def test_check_names_the_files_that_differ_and_a_run_mends_them(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('make_configs', ROOT / 'tools/maintain/make_configs.py')
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    monkeypatch.setattr(generator, 'CONFIGS', tmp_path)

    def run(*argv: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['make_configs.py', *argv])
        generator.main()
        return capsys.readouterr().out

    assert '234 configs' in run() and '0 written' in run()
    (tmp_path / 'bit-r50_sgd_fmow.py').write_text('edited by hand')
    (tmp_path / 'vit-b16_adamw_camelyon.py').unlink()
    with pytest.raises(SystemExit) as stop:
        run('--check')
    said = capsys.readouterr()
    assert stop.value.code == 1 and said.err == '2 of 234 configs differ; run python tools/maintain/make_configs.py\n'
    assert said.out == 'configs/vit-b16_adamw_camelyon.py\nconfigs/bit-r50_sgd_fmow.py\n'
    assert '2 written' in run() and '0 written' in run('--check')


def test_the_demo_has_every_method():
    names = {path.stem for path in (ROOT / 'configs').glob('vit-tiny_*_digits.py')}
    assert names == {f'vit-tiny_{method}_digits' for method in METHODS}


@pytest.mark.parametrize('model, method', PAIRS)
def test_a_cell_is_its_parts_with_classes_and_learning_rate(configs, parts, model, method):
    for dataset in DATASETS:
        cfg = configs[model, method, dataset]
        chosen = (f'models/{model}', f'methods/{method}', f'datasets/{dataset}', 'runtime')
        expected = Config({key: value for part in chosen for key, value in parts[part].to_dict().items()})
        expected.model.head.num_classes = DATASETS[dataset][1]
        expected.optim_wrapper.optimizer.lr = cfg.optim_wrapper.optimizer.lr
        assert cfg.to_dict() == expected.to_dict(), dataset


@pytest.mark.parametrize('model, method', PAIRS)
def test_a_cell_follows_the_protocol(configs, model, method):
    optimizer, momentum, weight_decay, freeze, schedule, lrs = METHODS[method]
    for index, (dataset, (dataset_type, num_classes, epochs)) in enumerate(DATASETS.items()):
        cfg = configs[model, method, dataset]
        wrapper = cfg.optim_wrapper
        assert (wrapper.optimizer.type, wrapper.optimizer.get('momentum')) == (optimizer, momentum)
        assert (wrapper.optimizer.weight_decay, wrapper.paramwise_cfg) == (weight_decay, dict(freeze=freeze))
        assert (cfg.param_scheduler.type, cfg.param_scheduler.by_epoch) == (schedule, True)
        best = BEST_LRS.get(method) if model == 'clip-vit-b16' else None
        assert wrapper.optimizer.lr == (best[index] if best else lrs[3]) and wrapper.optimizer.lr in lrs
        assert (cfg.train_dataloader.dataset.type, cfg.model.head.num_classes) == (dataset_type, num_classes)
        assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (epochs, 32)
        assert cfg.default_hooks.checkpoint.save_best == 'id/accuracy'


@pytest.mark.parametrize(
    'model, dataset',
    [  # every model and every data set; all pairs are slow
        pytest.param(*pair, marks=[pytest.mark.slow] * ('vit-b16' not in pair and 'living17' not in pair))
        for pair in itertools.product(MODEL_FROZEN, DATASETS)
    ],
)
def test_model_and_optimizer_are_built(configs, model, dataset):
    """On the meta device. The six methods share their model's config, so it is built once and copied."""
    init_default_scope('mmpretrain')
    cells = {method: configs[model, method, dataset] for method in METHODS}
    with torch.device('meta'):
        built = MODELS.build(deepcopy(cells['sgd'].model))  # building fills in defaults
    assert built.head.fc.weight.shape == (DATASETS[dataset][1], built.head.in_channels)
    total = sum(param.numel() for param in built.parameters())
    for method, cfg in cells.items():
        assert cfg.model == cells['sgd'].model
        copy = deepcopy(built)
        optimizer = build_optim_wrapper(copy, deepcopy(cfg.optim_wrapper)).optimizer
        frozen = sum(param.numel() for param in copy.parameters() if not param.requires_grad)
        assert frozen == (MODEL_FROZEN[model] if METHODS[method][3] == 'embed' else 0), method
        assert sum(param.numel() for group in optimizer.param_groups for param in group['params']) == total - frozen
        assert {group['lr'] for group in optimizer.param_groups} == {cfg.optim_wrapper.optimizer.lr}


def test_headers_have_the_command_and_the_published_numbers():
    published = {(result.model, result.method, result.dataset): result for result in paper_results()}
    for cell in MATRIX:
        name = '_'.join(cell)
        header = ast.get_docstring(ast.parse((ROOT / f'configs/{name}.py').read_text('utf-8')))
        assert f'python tools/train.py configs/{name}.py' in header
        assert ('The paper: ' in header) == (cell in published)
        if result := published.get(cell):
            id_ci, ood_ci = ('' if ci is None else f' ± {ci:.1f}' for ci in (result.id_ci90, result.ood_ci90))
            assert f'ID {result.id:.1f}{id_ci} %, OOD {result.ood:.1f}{ood_ci} % (' in header
