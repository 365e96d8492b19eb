"""DomainNet-40 as the paper ran it, trained on sketches: 256 x 256 (bicubic), crop, flip; 50 epochs, batch 32.

ID is the accuracy on `sketch_test`, OOD on `real_test`; `painting_test` and `clipart_test` are reported too.
"""

data_root = 'data/domainnet'
train_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/Resize', size=(256, 256), interpolation='bicubic'),
    dict(type='torchvision/RandomCrop', size=224),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
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
    num_workers=4,
    dataset=dict(type='DomainNet', data_root=data_root, split='sketch_train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(type='DomainNet', data_root=data_root, split=split, pipeline=test_pipeline, test_mode=True)
            for split in ('sketch_test', 'real_test', 'painting_test', 'clipart_test')
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='GroupAccuracy', id='sketch_test', ood='real_test')
test_evaluator = val_evaluator

train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=50, val_interval=1)
val_cfg = dict()
test_cfg = dict()
