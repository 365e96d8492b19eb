"""The demo's benchmark: digits on grass and gravel in the Waterbirds layout (`python tools/make_digits.py`).

ID is the val split, drawn like the training split (the place agrees with the label in 95 %). OOD is the test split,
in which every digit appears on both places.
"""

data_root = 'data/digits'
metainfo = dict(classes=('digit-0-4', 'digit-5-9'), places=('grass', 'gravel'))

train_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='PackRGB'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='PackRGB'),
    dict(type='PackInputs', meta_keys=('img_path', 'split', 'group')),
]

train_dataloader = dict(
    batch_size=32,  # per process
    num_workers=0,  # the images are tiny: a worker costs more time than it saves
    dataset=dict(type='Waterbirds', data_root=data_root, split='train', metainfo=metainfo, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(type='Waterbirds', data_root=data_root, split=split, metainfo=metainfo, pipeline=test_pipeline)
            for split in ('val', 'test')
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='GroupAccuracy', id='val', ood='test')
test_evaluator = val_evaluator

train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=8, val_interval=1)
val_cfg = dict()
test_cfg = dict()
