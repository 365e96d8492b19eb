"""The demo's digits enlarged to 224 pixels, for backbones of that resolution; otherwise as `digits.py`."""

_base_ = './digits.py'

load = [
    dict(type='LoadRGBImage'),
    dict(type='torchvision/Resize', size=224),
    dict(type='PackRGB'),
]
evaluated = [
    dict(
        type='Waterbirds',
        data_root=_base_.data_root,
        split=split,
        metainfo=_base_.metainfo,
        pipeline=[*load, dict(type='PackInputs', meta_keys=('img_path', 'split', 'group'))],
    )
    for split in ('val', 'test')
]

train_dataloader = dict(dataset=dict(pipeline=[*load, dict(type='PackInputs')]))
val_dataloader = dict(batch_size=32, dataset=dict(datasets=evaluated))
test_dataloader = val_dataloader
