"""A small gradual-unfreezing run of four epochs of six iterations; version 0.1.0 stopped it after two epochs."""

_base_ = [
    '../../../configs/_base_/models/vit-tiny.py',
    '../../../configs/_base_/methods/gradual-unfreezing.py',
    '../../../configs/_base_/datasets/digits.py',
    '../../../configs/_base_/runtime.py',
]
model = dict(
    backbone=dict(
        arch=dict(embed_dims=16, num_layers=6, num_heads=2, feedforward_channels=32),
        init_cfg=None,
        drop_rate=0.1,
    ),
    head=dict(num_classes=2, in_channels=16),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_dataloader = dict(dataset=dict(indices=90), batch_size=16)
train_cfg = dict(max_epochs=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=-1))
