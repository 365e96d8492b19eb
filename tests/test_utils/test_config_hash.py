"""The hash of a config changes with what can change a number of the record, and with nothing else."""

import pytest
from mmengine.config import Config
from mmengine.hooks import LoggerHook

from ftsgd_plugin.hooks import RunRecordHook
from ftsgd_plugin.records import config_hash, former_hash
from ftsgd_plugin.utils.paths import config_path

# Of vit-tiny_sgd_digits, as 0.1.0 wrote it and as it is written since. Another value would move finished sweeps away.
FORMER = 'c1eae101e9912cdda27b75613ff0b59a8c89a76854ac1826e89edee0a5e0485a'
TODAY = 'cce2d969f8bcf94c6b0b19f175f4a1569a2f7a44df0776ef4bbc1706942ff4b3'


def load(**options) -> Config:
    cfg = Config.fromfile(config_path('vit-tiny_sgd_digits'))
    cfg.merge_from_dict(options)
    return cfg


def test_no_version_of_the_package_changes_a_hash():
    assert (former_hash(load()), config_hash(load())) == (FORMER, TODAY)


LOADER = 'train_dataloader'
NO_NUMBER = [
    dict(work_dir='other', experiment_name='other', launcher='none'),
    dict(resume=True, load_from='work/epoch_1.pth'),
    dict(run=dict(model='vit-tiny', method='sgd', dataset='digits')),
    {f'{LOADER}.pin_memory': True, 'val_dataloader.persistent_workers': False},
    {f'{LOADER}.num_workers': 7, 'val_dataloader.num_workers': 3, f'{LOADER}.prefetch_factor': 4},
    {f'{LOADER}.timeout': 60, f'{LOADER}.multiprocessing_context': 'spawn', f'{LOADER}.pin_memory_device': 'cuda'},
    {'default_hooks.logger.interval': 1},
    {'default_hooks.logger': None},
    {'default_hooks.logger.type': LoggerHook},
    {'default_hooks.timer': None, 'default_hooks.visualization.enable': True},
    {'default_hooks.checkpoint.interval': 5, 'default_hooks.checkpoint.max_keep_ckpts': 3},
    {'default_hooks.checkpoint.type': 'CheckpointHook'},
    {'visualizer': None, 'vis_backends': [dict(type='TensorboardVisBackend')]},
    {'visualizer.vis_backends': [dict(type='WandbVisBackend')]},
    {'log_level': 'WARNING', 'log_processor': dict(window_size=1)},
    {'custom_hooks': []},
    {'custom_hooks': [dict(type='mmpretrain.RunRecordHook'), dict(type=RunRecordHook), dict(type='LayerGradNormHook')]},
    {'env_cfg.mp_cfg.mp_start_method': 'spawn'},
    {'test_dataloader.batch_size': 1, 'test_evaluator.ood': 'val'},
    {'image_cache': True},
    {f'{LOADER}.dataset.image_cache': '/fast', 'val_dataloader.dataset.datasets.0.image_cache': True},
]
A_NUMBER = [
    {'optim_wrapper.optimizer.lr': 0.5},
    {'randomness.seed': 1},
    {'load_from': 'weights.pth'},
    {f'{LOADER}.batch_size': 8},
    {f'{LOADER}.drop_last': True},
    {f'{LOADER}.sampler.shuffle': False},
    {f'{LOADER}.dataset.split': 'val'},
    {f'{LOADER}.worker_init_fn': dict(type='worker_init_fn')},
    {'val_dataloader.dataset.datasets.0.indices': 4},
    {'val_evaluator.ood': 'val'},
    {'train_cfg.max_epochs': 3},
    {'train_cfg.data_order': 'mmengine'},
    {'train_cfg.type': 'EpochBasedTrainLoop'},
    {'model.backbone.drop_rate': 0.1},
    {'default_hooks.ema': dict(type='EMAHook')},
    {'default_hooks.logger.type': 'MyHook'},
    {'default_hooks.param_scheduler': None},
    {'custom_hooks': [dict(type='EMAHook')]},
    {'env_cfg.cudnn_benchmark': False},
]


@pytest.mark.parametrize('options', NO_NUMBER, ids=lambda options: next(iter(options)))
def test_what_changes_no_number_leaves_the_hash(options):
    assert config_hash(load(**options)) == TODAY


def test_what_can_change_a_number_changes_the_hash():
    assert len({TODAY, *(config_hash(load(**options)) for options in A_NUMBER)}) == 1 + len(A_NUMBER)


def test_the_order_of_multipliers_counts_as_the_last_that_matches_a_layer_does():
    rates = {'block': 0.5, 'blocks.1': 0.25}
    key = 'optim_wrapper.paramwise_cfg.lr_mult'
    ordered, again, reversed_ = (
        config_hash(load(**{key: one})) for one in (rates, dict(rates), dict(reversed(rates.items())))
    )
    assert ordered == again != reversed_


def test_workers_of_the_training_data_count_with_loops_whose_augmentation_depends_on_them():
    def hashed(train_cfg: dict, workers: int) -> str:
        cfg = load(**{f'{LOADER}.num_workers': workers})
        cfg.train_cfg = train_cfg
        return config_hash(cfg)

    theirs, ours = dict(by_epoch=True, max_epochs=2), dict(type='mmpretrain.ResumableIterTrainLoop', max_iters=9)
    assert hashed(ours, 0) == hashed(ours, 2) and hashed(theirs, 0) != hashed(theirs, 2)
