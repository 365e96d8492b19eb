"""ELPV: defective solar cells; trained on monocrystalline modules, the polycrystalline ones are OOD (300 to 224 px).

`python tools/prepare_data.py elpv` gets it (non-commercial licence). ID is `test`, 30 % of the monocrystalline cells;
epoch and learning rate are selected by it too, as in the paper, which keeps no separate validation data. OOD is every
polycrystalline cell. A cell is defective from a probability of one half on; groups: kind and defect.
"""

data_root = 'data/elpv'
source = dict(
    type='GroupedImages',
    data_root=data_root,
    table='elpv.csv',
    columns=dict(split='elpv-mono', group='group', metadata=['probability']),
    classes=['functional', 'defective'],
)
train_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/Resize', size=(224, 224), interpolation='bicubic'),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/RandomVerticalFlip', p=0.5),
    dict(type='PackRGB'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/Resize', size=(224, 224), interpolation='bicubic'),
    dict(type='PackRGB'),
    dict(type='PackInputs', meta_keys=('img_path', 'split', 'group')),
]

train_dataloader = dict(
    batch_size=32,  # per process
    num_workers=2,
    dataset=dict(**source, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(
        type='ConcatDataset',
        datasets=[dict(**source, split=split, pipeline=test_pipeline, test_mode=True) for split in ('test', 'ood')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='GroupAccuracy', id='test', ood='ood', items=('balanced_accuracy', 'auroc'))
test_evaluator = val_evaluator

train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=6, val_interval=1)
val_cfg = dict()
test_cfg = dict()
