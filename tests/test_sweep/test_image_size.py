"""Another image size for the runs of a plan."""

import pytest
from helpers import ROOT
from helpers.tiny_sweep import write_plan
from mmengine.config import Config

from ftsgd_plugin.records import LOADERS
from ftsgd_plugin.sweep.image_size import set_image_size
from ftsgd_plugin.sweep.plan import claim_directory, read_plan
from ftsgd_plugin.sweep.runs import run_config
from ftsgd_plugin.utils.errors import UserError


def sizes(cfg: Config, loader: str) -> list:
    dataset = cfg[loader].dataset
    pipeline = dataset.get('datasets', [dataset])[-1].pipeline
    return [one.get('size', one.get('scale')) for one in pipeline if 'size' in one or 'scale' in one]


@pytest.mark.parametrize(
    'name, train, val',
    [
        ('dinov2-vit-s14_sgd_elpv-poly', [(112, 112)], [(112, 112)]),
        ('clip-vit-b16_sgd_waterbirds', [112, 112], [112, 112]),
        ('vit-b16_sgd_living17', [112], [128, 112]),
        ('vit-b16_sgd_domainnet', [(128, 128), 112], [(112, 112)]),
    ],
)
def test_pipelines_and_backbone_get_the_size(name, train, val):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    before = cfg.model.backbone.to_dict()
    set_image_size(cfg, 112)
    assert sizes(cfg, 'train_dataloader') == train
    assert sizes(cfg, 'val_dataloader') == sizes(cfg, 'test_dataloader') == val
    option = {'dinov2-vit-s14': {'img_size': 112}, 'clip-vit-b16': {'image_size': 112}}.get(name.split('_')[0], {})
    assert cfg.model.backbone.to_dict() == {**before, **option}
    set_image_size(cfg, 224)
    assert all(sizes(cfg, one) == sizes(Config.fromfile(ROOT / f'configs/{name}.py'), one) for one in LOADERS)


def test_a_config_without_a_size_is_refused():
    cfg = Config.fromfile(ROOT / 'configs/vit-tiny_sgd_digits.py')
    with pytest.raises(UserError, match='image_size=64: no pipeline resizes or crops'):
        set_image_size(cfg, 64)


def test_keys_of_the_plan(tmp_path):
    plan = read_plan(str(ROOT / 'configs/sweeps/real.py'))
    run = next(run for run in plan.runs() if run.dataset == 'elpv-poly')
    cfg = run_config(plan, run, tmp_path)
    assert (cfg.model.backbone.img_size, cfg.train_cfg.max_epochs) == (84, 2)
    assert [len(one.get('indices', ())) for one in cfg.val_dataloader.dataset.datasets] == [0, 358]
    for keys, message in (
        (dict(image_size=0), 'image_size: 0 is not a positive whole number'),
        (dict(dataset_options={'digit': {}}), "dataset_options: 'digit' is unknown; did you mean 'digits'"),
        (dict(dataset_options={'digits': [1]}), r"dataset_options\['digits'\] must be a dict"),
        (dict(dataset_options=[]), 'dataset_options must be a dict, not'),
    ):
        with pytest.raises(UserError, match=message):
            read_plan(str(write_plan(tmp_path, **keys)))


def test_a_sweep_of_an_earlier_version_goes_on(tmp_path):
    """Its plan.json lacks the new keys."""
    import json

    plan = read_plan(str(write_plan(tmp_path)))
    claim_directory(plan, tmp_path)
    written = json.loads((tmp_path / 'plan.json').read_text())
    (tmp_path / 'plan.json').write_text(
        json.dumps({k: v for k, v in written.items() if not k.endswith(('size', 'ns'))})
    )
    claim_directory(plan, tmp_path)
