"""Waterbirds as the paper ran it: no augmentation; 20 epochs, batch 32.

ID is the group-weighted accuracy on the test split (weights: the training groups), OOD its worst group; both as in the
authors' code. `data_root` may be the directory of WILDS or the original one.
"""

data_root = 'data/waterbirds_v1.0'
pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/Resize', size=224, interpolation='bicubic'),  # of the shorter side
    dict(type='torchvision/CenterCrop', size=224),
    dict(type='PackRGB'),
    dict(type='PackInputs', meta_keys=('img_path', 'split', 'group')),
]

train_dataloader = dict(
    batch_size=32,  # per process
    num_workers=4,
    dataset=dict(type='Waterbirds', data_root=data_root, split='train', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(type='Waterbirds', data_root=data_root, split=split, pipeline=pipeline, test_mode=True)
            for split in ('val', 'test')
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type='GroupAccuracy',
    id=dict(
        split='test',
        weights=dict(landbird_land=3498, landbird_water=184, waterbird_land=56, waterbird_water=1057),
    ),
    ood='test',
)
test_evaluator = val_evaluator

train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()
