"""WILDS-Camelyon17 as the paper ran it: 96 to 224 pixels (bilinear), flip; 3 epochs, batch 32.

ID is the accuracy on `id_val`, OOD on `test` (hospital 2); `val` (hospital 1) and the slides of `test` are reported.
"""

data_root = 'data/camelyon17_v1.0'
train_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/Resize', size=(224, 224), interpolation='bilinear'),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='PackRGB'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/Resize', size=(224, 224), interpolation='bilinear'),
    dict(type='PackRGB'),
    dict(type='PackInputs', meta_keys=('img_path', 'split', 'group')),
]

train_dataloader = dict(
    batch_size=32,  # per process
    num_workers=4,
    dataset=dict(type='Camelyon17', data_root=data_root, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(type='Camelyon17', data_root=data_root, split=split, pipeline=test_pipeline, test_mode=True)
            for split in ('id_val', 'val', 'test')
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='GroupAccuracy', id='id_val', ood='test')
test_evaluator = val_evaluator

train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=3, val_interval=1)
val_cfg = dict()
test_cfg = dict()
