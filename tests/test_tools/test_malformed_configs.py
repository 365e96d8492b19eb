"""A hundred malformed configs: each ends with code 2 and one line that names the key, before training starts."""

import pytest
from helpers.demo_run import CONFIG, write_child
from helpers.small_runs import make_small_runs_cheap

# what the child config says -> part of the line; a name for the test where it is not clear
TOP = {
    'optim_wraper = dict(lr=1)': "optim_wraper: the Runner has no such key; did you mean 'optim_wrapper'?",
    'train_dataloder = dict(batch_size=1)': "did you mean 'train_dataloader'?",
    'param_schedular = None': "did you mean 'param_scheduler'?",
    'modell = dict()': "did you mean 'model'?",
    'train_config = dict(max_epochs=1)': "train_config: the Runner has no such key; did you mean 'train_cfg'?",
    'randomnes = dict(seed=1)': "did you mean 'randomness'?",
    'default_hook = dict()': "did you mean 'default_hooks'?",
    'custom_hoks = []': "did you mean 'custom_hooks'?",
    'load_form = "a.pth"': "did you mean 'load_from'?",
    'default_hooks = dict(chekpoint=dict(type="CheckpointHook"))': 'default_hooks.chekpoint: there is no such hook',
    'default_hooks = dict(loger=dict(type="LoggerHook"))': "did you mean 'logger'?",
    'model = None': 'has no model; add model=dict(...)',
    'train_dataloader = None': 'has no train_dataloader',
    'train_cfg = None': 'has no train_cfg',
    'optim_wrapper = None': 'has no optim_wrapper',
    'val_dataloader = None': 'has val_cfg but no val_dataloader',
    'val_evaluator = None': 'has val_dataloader but no val_evaluator',
    'test_cfg = None': 'has test_dataloader but no test_cfg',
    'model = "ViT"': "model='ViT' is not a dict",
    'train_dataloader = [1]': 'train_dataloader=[1] is not a dict',
    'train_cfg = 4': 'train_cfg=4 is not a dict',
    'optim_wrapper = "SGD"': "optim_wrapper='SGD' is not a dict",
    'param_scheduler = 3': 'param_scheduler=3 is neither a dict nor a list',
    'default_hooks = dict(_delete_=True)\ndefault_hooks = []': 'default_hooks=[] is not a dict',
    'custom_hooks = "RunRecordHook"': "custom_hooks='RunRecordHook' is neither a dict nor a list",
    'custom_hooks = [3]': 'custom_hooks.0=3 is not a dict',
    'log_level = "LOUD"': "log_level='LOUD'",
    'load_from = 3': 'load_from=3 is not text',
    'resume = 1.5': 'resume=1.5 is neither',
    'env_cfg = dict(cudnn_benchmrk=True)': "did you mean 'cudnn_benchmark'?",
    'auto_scale_lr = dict(base_batchsize=16)': "did you mean 'base_batch_size'?",
    'auto_scale_lr = dict(base_batch_size=0)': 'auto_scale_lr.base_batch_size=0',
    'visualizer = dict(type="Visualiser")': "did you mean 'Visualizer'",
    'visualizer = dict(vis_backends=[dict(type="LocalVisBackends")])': "did you mean 'LocalVisBackend'?",
    'log_processor = dict(window=5)': "did you mean 'window_size'?",
}
SEEDS = {
    'randomness = dict(seed=-1)': 'randomness.seed=-1 is not a whole number from 0',
    'randomness = dict(seed="one")': "randomness.seed='one'",
    'randomness = dict(seed=2**32)': 'randomness.seed=4294967296',
    'randomness = dict(seed=1.5)': 'randomness.seed=1.5',
    'randomness = dict(seed=[1, 2])': 'randomness.seed=[1, 2]',
    'randomness = dict(sead=1)': "did you mean 'seed'?",
    'randomness = dict(deterministic="yes")': "randomness.deterministic='yes' is not True or False",
}
OPTIMIZER = {
    'optim_wrapper = dict(optimizer=dict(type="AdamX"))': "optim_wrapper.optimizer: type='AdamX' is not in the",
    'optim_wrapper = dict(optimizer=dict(type="sgd"))': "did you mean 'SGD'",
    'optim_wrapper = dict(optimizer=dict(type=5))': 'optim_wrapper.optimizer.type=5 is neither a name nor a class',
    'optim_wrapper = dict(optimizer=None)': 'optim_wrapper: has no optimizer',
    'optim_wrapper = dict(optimizer="SGD")': "optim_wrapper.optimizer='SGD' is not a dict",
    'optim_wrapper = dict(optimizer=dict(lr="1e-3"))': "optim_wrapper.optimizer.lr='1e-3' is not a number",
    'optim_wrapper = dict(optimizer=dict(lr=[1, 2]))': 'optim_wrapper.optimizer.lr=[1, 2] is not a number',
    'optim_wrapper = dict(optimizer=dict(lr=-1.0))': 'optim_wrapper.optimizer',
    'optim_wrapper = dict(optimizer=dict(lrr=1.0))': "did you mean 'lr'?",
    'optim_wrapper = dict(optimizer=dict(momentum="high"))': "optim_wrapper.optimizer.momentum='high' is not a number",
    'optim_wrapper = dict(optimizer=dict(weight_decay="0"))': "optimizer.weight_decay='0' is not a number",
    'optim_wrapper = dict(optimizer=dict(nesterov="x"))': "optim_wrapper.optimizer.nesterov='x' is not True or False",
    'optim_wrapper = dict(optimizer=dict(momentum=0.0, nesterov=True))': 'Nesterov momentum requires',
    'optim_wrapper = dict(type="OptimWraper")': "did you mean 'OptimWrapper'",
    'optim_wrapper = dict(accumulative_count=2)': "did you mean 'accumulative_counts'?",
    'optim_wrapper = dict(accumulative_counts=0)': 'optim_wrapper.accumulative_counts=0 is not a whole number >= 1',
    'optim_wrapper = dict(accumulative_counts="2")': "optim_wrapper.accumulative_counts='2'",
    'optim_wrapper = dict(clip_grad=dict(max_nrom=1))': "did you mean 'max_norm'?",
    'optim_wrapper = dict(clip_grad=dict(type="norms", max_norm=1))': "optim_wrapper.clip_grad.type='norms'",
    'optim_wrapper = dict(clip_grad=3)': 'optim_wrapper.clip_grad=3 is not a dict',
    'optim_wrapper = dict(constructor="FreezeEmbedConstructor")': "did you mean 'FreezeEmbedOptimWrapperConstructor'?",
    'optim_wrapper = dict(paramwise_cfg=dict(frieze="embed"))': "did you mean 'freeze'?",
    'optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mul=0.))': "did you mean 'norm_decay_mult'",
    'optim_wrapper = dict(paramwise_cfg=dict(bias_lr_mult="2"))': "paramwise_cfg.bias_lr_mult='2' is not a number",
    'optim_wrapper = dict(paramwise_cfg=dict(custom_keys=["head"]))': "custom_keys=['head'] is not a dict",
    'optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=2)))': "custom_keys['head']=2 is not a dict",
    'optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult="x"))))': "lr_mult='x' is not a number",
    'optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(bakcbone=dict(lr_mult=0.1))))': "did you mean 'backbone'",
    'optim_wrapper = dict(paramwise_cfg=[1])': 'optim_wrapper.paramwise_cfg=[1] is not a dict',
}
SCHEDULE = {
    'param_scheduler = dict(type="CosineLR")': "param_scheduler: type='CosineLR' is not in the",
    'param_scheduler = dict(tmax=3)': "did you mean 'T_max'?",
    'param_scheduler = dict(begin=3, end=1)': 'param_scheduler.end=1 is not after begin=3',
    'param_scheduler = dict(begin=-1)': 'param_scheduler.begin=-1 is not a whole number >= 0',
    'param_scheduler = dict(end="all")': "param_scheduler.end='all' is not a whole number",
    'param_scheduler = dict(T_max=0)': 'param_scheduler.T_max=0 is not a whole number >= 1',
    'param_scheduler = dict(by_epoch="no")': "param_scheduler.by_epoch='no' is not True or False",
    'param_scheduler = [dict(type="MultiStepLR", milestones=3)]': 'param_scheduler.0.milestones=3 is not a list',
    'param_scheduler = [dict(type="MultiStepLR")]': 'param_scheduler.0: has no milestones, which MultiStepLR needs',
    'param_scheduler = [dict(type="LinearLR", start_factor=2.0)]': "type='LinearLR'",
    'param_scheduler = [dict(by_epoch=True)]': 'param_scheduler.0 has no type',
    'param_scheduler = [dict(type="GradualUnfreezingLR", warmup=-1)]': 'warmup=-1 is not a whole number',
    'param_scheduler = [dict(type="GradualUnfreezingLR"), dict(type="CosineRestartLR", periods=[8], eta_min=0)]':
        'CosineRestartLR sets the learning rate',
    'param_scheduler = dict(type="GradualUnfreezingLR")\ntrain_cfg = dict(_delete_=True, by_epoch=False, max_iters=9)':
        'param_scheduler: GradualUnfreezingLR counts epochs (by_epoch=True) and train_cfg iterations',
}  # fmt: skip
LOOP = {
    'train_cfg = dict(max_epochs=0)': 'train_cfg.max_epochs=0 is not a whole number >= 1',
    'train_cfg = dict(max_epochs=-3)': 'train_cfg.max_epochs=-3',
    'train_cfg = dict(max_epochs=1.5)': 'train_cfg.max_epochs=1.5 is not a whole number',
    'train_cfg = dict(max_epochs="8")': "train_cfg.max_epochs='8' is not a whole number",
    'train_cfg = dict(val_interval=0)': 'train_cfg.val_interval=0 is not a whole number >= 1',
    'train_cfg = dict(val_interval="1")': "train_cfg.val_interval='1'",
    'train_cfg = dict(max_epoch=3)': "did you mean 'max_epochs'?",
    'train_cfg = dict(_delete_=True, type="ResumableEpochTrainLoop")': 'train_cfg: has no max_epochs',
    'train_cfg = dict(type="EpochTrainLoop")': "train_cfg: type='EpochTrainLoop' is not in the",
    'train_cfg = dict(by_epoch=True)': "unexpected keyword argument 'by_epoch'",
    'val_cfg = dict(fp61=True)': "did you mean 'fp16'?",
    'train_dataloader = dict(batch_size=0)': 'train_dataloader.batch_size=0 is not a whole number >= 1',
    'train_dataloader = dict(batch_size=-1)': 'train_dataloader.batch_size=-1',
    'train_dataloader = dict(batch_size="32")': "train_dataloader.batch_size='32' is not a whole number",
    'val_dataloader = dict(batch_size=0)': 'val_dataloader.batch_size=0',
    'train_dataloader = dict(num_workers=-1)': 'train_dataloader.num_workers=-1',
    'train_dataloader = dict(batch_size=5000, drop_last=True)': 'images give no batch of batch_size=5000',
    'train_dataloader = dict(num_worker=2)': "did you mean 'num_workers'?",
    'train_dataloader = dict(samplr=dict())': "did you mean 'sampler'?",
    'train_dataloader = dict(sampler=None)': 'train_dataloader: has no sampler',
    'train_dataloader = dict(dataset=None)': 'train_dataloader: has no dataset',
    'train_dataloader = dict(sampler=dict(type="DefaultSampling"))': "did you mean 'DefaultSampler'?",
    'train_dataloader = dict(sampler=dict(shufle=True))': "did you mean 'shuffle'?",
    'train_dataloader = dict(sampler=dict(shuffle="yes"))': "sampler.shuffle='yes' is not True or False",
    'train_dataloader = dict(collate_fn=dict(type="default_colate"))': "did you mean 'default_collate'",
    'train_dataloader = dict(dataset=dict(pipelin=[]))': "did you mean 'pipeline'?",
    'train_dataloader = dict(dataset=dict(pipeline=[dict(type="LoadRGB")]))': "did you mean 'LoadRGBImage'",
    'train_dataloader = dict(dataset=dict(pipeline=[dict(type="PackInputs", metakey=1)]))': "did you mean 'meta_keys'?",
    'train_dataloader = dict(dataset=dict(data_root=7))': 'data_root=7',
}
MODEL = {
    'model = dict(head=dict(num_classes=1))': 'model.head.num_classes=1: the training data has 2 classes; set',
    'model = dict(head=dict(num_classes=0))': 'model.head.num_classes=0 is not a whole number >= 1',
    'model = dict(head=dict(num_classes="2"))': "model.head.num_classes='2' is not a whole number",
    'model = dict(head=dict(in_channels=65))': 'model.head.in_channels=65: backbone and neck yield 64 features; set',
    'model = dict(head=dict(in_chanels=64))': "did you mean 'in_channels'?",
    'model = dict(head=dict(type="LinearHead"))': "did you mean 'LinearClsHead'",
    'model = dict(head=dict(loss=dict(los_weight=2.0)))': "did you mean 'loss_weight'?",
    'model = dict(head=dict(loss=dict(type="CrossEntropy")))': "did you mean 'CrossEntropyLoss'?",
    'model = dict(backbone=dict(imgsize=32))': "did you mean 'img_size'?",
    'model = dict(backbone=dict(arch="base-ish", init_cfg=None))': "type='VisionTransformer'",
    'model = dict(data_preprocessor=dict(means=[1.0]))': "did you mean 'mean'?",
    'model = dict(type="ImageClasifier")': "did you mean 'ImageClassifier'?",
    'model = dict(backbone=dict(type=None))': 'model.backbone',
}
HOOKS = {
    'default_hooks = dict(checkpoint=dict(save_best="id/acuracy"))': "did you mean 'id/accuracy'",
    'default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))': "save_best='accuracy/top1': the validation",
    'val_evaluator = dict(_delete_=True, type="Accuracy", topk=(1,))': 'accuracy/top1',
    'default_hooks = dict(checkpoint=dict(save_best="ood/accuracy"))': "is of the OOD data, which must not select",
    'val_evaluator = dict(items=["ece"])\ndefault_hooks = dict(checkpoint=dict(save_best="id/ece"))':
        "save_best='id/ece' with rule='greater': of this metric the greater value is worse; set rule='less'",
    'val_evaluator = dict(metrics=["ece"])': 'val_evaluator.metrics: MMEngine keeps this key',
    'val_evaluator = dict(items=["acc"])': "val_evaluator.items='acc': there is no such metric",
    'default_hooks = dict(checkpoint=dict(save_bset="id/accuracy"))': "did you mean 'save_best'?",
    'default_hooks = dict(checkpoint=dict(rule="bigger"))': 'checkpoint',
    'default_hooks = dict(checkpoint=dict(interval="1"))': "checkpoint.interval='1' is not a whole number",
    'default_hooks = dict(checkpoint=dict(type="SaveCheckpointHook"))': "did you mean 'SafeCheckpointHook'",
    'default_hooks = dict(logger=dict(interval="ten"))': "logger.interval='ten' is not a whole number",
    'default_hooks = dict(logger=dict(intervall=10))': "did you mean 'interval'?",
    'default_hooks = dict(early=dict(interval=1))': 'default_hooks.early has no type',
    'custom_hooks = [dict(type="ResourcesHook")]': "did you mean 'ResourceHook'?",
    'custom_hooks = [dict(type="EMAHook", momentun=0.1)]': "custom_hooks.0: type='EMAHook' got an unexpected keyword",
    'custom_hooks = [dict(type="EarlyStoppingHook", monitor="id/acc")]': "EarlyStoppingHook.monitor='id/acc'",
    'custom_hooks = [dict(type="EarlyStoppingHook")]': 'custom_hooks.0: has no monitor',
    'val_evaluator = dict(type="GroupAcuracy")': "did you mean 'GroupAccuracy'?",
    'val_evaluator = dict(idd="val")': "got an unexpected keyword argument 'idd'",
}  # fmt: skip
TABLE = {**TOP, **SEEDS, **OPTIMIZER, **SCHEDULE, **LOOP, **MODEL, **HOOKS}


@pytest.fixture(scope='module', autouse=True)
def imported() -> None:
    """The stack, before the garbage collector is told to leave what is imported alone."""
    import ftsgd_plugin.runner.build  # noqa: F401

    make_small_runs_cheap()


def test_the_table_is_long_enough():
    assert len(TABLE) >= 90


@pytest.mark.parametrize('text, part', TABLE.items(), ids=map(str, range(len(TABLE))))
def test_malformed_config_is_one_line(inside, tmp_path, run_tool, text, part):
    path = write_child(inside, 'malformed.py', text)
    code, err = run_tool('train', path, '--work-dir', tmp_path)
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert code == 2 and len(lines) == 1 and part in lines[0], err
    assert 'Traceback' not in err and not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize(
    'option, part',
    [
        ('optim_wraper.optimizer.lr=1', "no config has 'optim_wraper'; did you mean 'optim_wrapper'?"),
        ('optimiser.lr=1', "no config has 'optimiser'"),
        ('train_cfg.max_epoch=1', "did you mean 'max_epochs'?"),
        ('optim_wrapper.optimizer.type=AdamX', "type='AdamX' is not in the"),
        ('train_cfg.max_epochs=0', 'train_cfg.max_epochs=0'),
        ('randomness.seed=x', "randomness.seed='x'"),
    ],
)
def test_malformed_option_is_one_line(inside, tmp_path, run_tool, option, part):
    code, err = run_tool('train', CONFIG, '--work-dir', tmp_path, '--cfg-options', option)
    assert code == 2 and err.count('error: ') == 1 and part in err.splitlines()[-1]


@pytest.mark.parametrize('text', ['', '{}', 'a = 1', '_base_ = []'])
def test_config_without_anything_is_one_line(inside, tmp_path, run_tool, text):
    (tmp_path / 'empty.py').write_text(text)
    code, err = run_tool('train', tmp_path / 'empty.py', '--work-dir', tmp_path)
    assert code == 2 and err.count('\n') == 1 and 'empty.py: has no model' in err
