"""WILDS-FMoW as the paper ran it: native 224 pixels, flip; 5 epochs, batch 32.

ID is the accuracy on `id_val`, OOD on Africa within `test` (from 2016). Also reported: every region of `test`, the
worst one (WILDS: `Other` does not count), the worst year, and `split/test`, WILDS' average.
"""

data_root = 'data/fmow_v1.1'
train_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='PackRGB'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='PackRGB'),
    dict(type='PackInputs', meta_keys=('img_path', 'split', 'group', 'year')),
]

train_dataloader = dict(
    batch_size=32,  # per process
    num_workers=4,
    dataset=dict(type='FMoW', data_root=data_root, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(type='FMoW', data_root=data_root, split=split, pipeline=test_pipeline, test_mode=True)
            for split in ('id_val', 'id_test', 'val', 'test')
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type='GroupAccuracy',
    id='id_val',
    ood=dict(split='test', groups=['Africa']),
    by=('year',),
    not_worst=('Other',),
)
test_evaluator = val_evaluator

train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=5, val_interval=1)
val_cfg = dict()
test_cfg = dict()
