"""Living-17 as the paper ran it: random resized crop and flip; 20 epochs, batch 32.

ID is the accuracy on the source subclasses of ImageNet `val`, OOD on the target subclasses.
"""

data_root = 'data/imagenet'
train_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/RandomResizedCrop', size=224),  # bilinear, scale 0.08 to 1, ratio 3/4 to 4/3
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='PackRGB'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/Resize', size=256),  # of the shorter side, bilinear
    dict(type='torchvision/CenterCrop', size=224),
    dict(type='PackRGB'),
    dict(type='PackInputs', meta_keys=('img_path', 'split', 'group')),
]

train_dataloader = dict(
    batch_size=32,  # per process
    num_workers=4,
    dataset=dict(type='Living17', data_root=data_root, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(type='Living17', data_root=data_root, split=split, pipeline=test_pipeline, test_mode=True)
            for split in ('id_val', 'ood_val')
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='GroupAccuracy', id='id_val', ood='ood_val')
test_evaluator = val_evaluator

train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()
