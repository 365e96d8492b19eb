"""A finished run is loaded from what it left on disk alone: no data, no pretrained weights, no executed text."""

import shutil

import pytest
import safetensors.torch
import torch
from helpers import ROOT
from mmengine.config import Config

from ftsgd_plugin.checkpoint.config_text import config_in
from ftsgd_plugin.datasets.preprocessing import META, describe_preprocessing
from ftsgd_plugin.inference.run import build_model, find_run, load_run
from ftsgd_plugin.utils.errors import UserError

CLASSES = ('digit-0-4', 'digit-5-9')


@pytest.fixture
def moved(finished_run, tmp_path):
    """The run's config and best checkpoint in another directory, without its data."""
    for path in (*finished_run.glob('*.py'), *finished_run.glob('best_*.pth'), finished_run / 'record.json'):
        shutil.copy(path, tmp_path)
    (config,) = tmp_path.glob('*.py')
    config.write_text(config.read_text().replace(str(Config.fromfile(config).data_root), '/no/such/data'))
    return tmp_path


def test_directory_checkpoint_and_config_give_the_weights_of_the_best_checkpoint(moved, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError('pretrained weights are read')

    monkeypatch.setattr(safetensors.torch, 'load_file', fail)  # the packaged weights that training started from
    (best,) = moved.glob('best_*.pth')
    (config,) = moved.glob('*.py')
    saved = torch.load(best, weights_only=True)['state_dict']
    for arguments in [(moved,), (best,), (config, best), (moved, best)]:
        run = load_run(*arguments, device='cpu')
        assert run.checkpoint == best and run.classes == CLASSES and run.record.status == 'finished'
        assert run.preprocessing == describe_preprocessing(run.cfg) and not run.model.training
        state = run.model.state_dict()
        assert state.keys() == saved.keys()
        assert all(torch.equal(state[name], value) for name, value in saved.items())


def test_every_checkpoint_holds_the_preprocessing_and_the_classes(finished_run):
    cfg, _ = find_run(finished_run)
    files = list(finished_run.glob('*.pth'))
    assert len(files) == 2
    for file in files:
        meta = torch.load(file, weights_only=True)['meta']
        assert meta[META] == describe_preprocessing(cfg).as_meta()
        assert meta['dataset_meta']['classes'] == CLASSES


def test_the_config_in_a_checkpoint_is_not_executed(finished_run, tmp_path):
    content = torch.load(next(finished_run.glob('best_*.pth')), weights_only=True)
    for text in ('import os', 'a = open("x", "w")', '__import__("os").system("true")', 'a = [i for i in ()]', 'a = ('):
        content['meta']['cfg'] = text
        torch.save(content, tmp_path / 'c.pth')
        with pytest.raises(UserError, match='the config stored in its meta cannot be read') as error:
            load_run(tmp_path / 'c.pth')
        assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'kind', ['os.system', 'subprocess.Popen', 'torch.hub.load', 'mmengine.utils.package_utils.call_command', 'no.such']
)
def test_a_type_that_would_be_called_is_refused(kind):
    text = f"model = dict(type='ImageClassifier', backbone=[dict(type='{kind}')])"
    with pytest.raises(UserError, match='is not a class of a model'):
        config_in({'meta': {'cfg': text}}, 'c.pth')


def test_types_as_configs_of_the_newer_style_are_dumped():
    loss = dict(type='torch.nn.modules.loss.CrossEntropyLoss')
    init_cfg = dict(type='mmengine.model.weight_init.TruncNormalInit')
    head = dict(type='mmpretrain.LinearClsHead', loss=loss, init_cfg=init_cfg)
    text = f'model = {dict(type="mmpretrain.models.classifiers.image.ImageClassifier", head=head)!r}'
    assert config_in({'meta': {'cfg': text}}, 'c.pth').model.type.endswith('ImageClassifier')


def test_what_the_text_of_a_config_can_hold_is_read_as_mmengine_reads_it():
    for name in ('clip-vit-b16_gradual-unfreezing_waterbirds', 'vit-b16_adamw_fmow'):
        cfg = Config.fromfile(ROOT / f'configs/{name}.py')
        found = config_in({'meta': {'cfg': cfg.pretty_text}}, 'c.pth')
        assert found.to_dict() == cfg.to_dict()
    odd = {'a': float('inf'), 'b': -1e-9, 'c': {'x y': (1,), 'z': None}, 'd': '"\'\n', 'e': [], 'f': set()}
    assert config_in({'meta': {'cfg': Config(odd).pretty_text}}, 'c.pth').to_dict() == odd


def test_the_classes_of_a_checkpoint_without_names(finished_run, tmp_path):
    cfg, best = find_run(finished_run)
    content = torch.load(best, weights_only=True)
    del content['meta']['dataset_meta']
    torch.save(content, tmp_path / 'c.pth')
    assert load_run(tmp_path / 'c.pth', device='cpu').classes == CLASSES  # from metainfo of the config
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            dataset.pop('metainfo')
    content['meta']['cfg'] = cfg.pretty_text
    torch.save(content, tmp_path / 'c.pth')
    assert load_run(tmp_path / 'c.pth', device='cpu').classes == ('landbird', 'waterbird')  # of the data set


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224', pretrained=True),
        dict(type='TimmPooledBackbone', model_name='vit_tiny_patch16_224', pretrained=True),
    ],
)
def test_no_weights_are_fetched_to_build_the_model(backbone, monkeypatch):
    import timm

    create, asked = timm.create_model, []

    def create_model(model_name, pretrained=False, **kwargs):
        asked.append(pretrained)
        return create(model_name, pretrained=False, depth=1, **kwargs)

    monkeypatch.setattr(timm, 'create_model', create_model)
    head = dict(type='LinearClsHead', num_classes=2, in_channels=192)
    build_model(Config({'model': dict(type='ImageClassifier', backbone=backbone, head=head)}))
    assert asked == [False]


def test_bad_runs_are_one_line(finished_run, tmp_path):
    _, best = find_run(finished_run)
    config = next(finished_run.glob('*.py'))
    other = tmp_path / 'other.py'
    other.write_text(f'_base_ = {str(config)!r}\nmodel = dict(backbone=dict(arch=dict(num_layers=5)))\n')
    bare = tmp_path / 'bare.pth'
    torch.save(torch.load(best, weights_only=True)['state_dict'], bare)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.pth').write_text('no checkpoint')
    (tmp_path / 'data.py').write_text('data_root = 1\n')
    for arguments, reason in [
        ((tmp_path / 'nowhere',), 'no such run; name a work directory'),
        ((tmp_path / 'empty',), r'no config \(\*\.py\)'),
        ((config,), 'is a config; add --checkpoint PATH'),
        ((other, best), 'does not fit the model of .*other.py: backbone.layers.5'),
        ((bare,), 'stores no config'),
        ((best, best), 'is not a config; with --checkpoint'),
        ((tmp_path / 'text.pth',), 'cannot be read as a checkpoint'),
        ((tmp_path / 'data.py', best), 'has no model'),
    ]:
        with pytest.raises(UserError, match=reason) as error:
            load_run(*arguments, device='cpu')
        assert '\n' not in str(error.value)
