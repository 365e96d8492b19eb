"""The demo's backbone: 0.31 M parameters, 16 patches of 8x8, pretrained by `tools/maintain/pretrain_vit_tiny.py`."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True),
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=64, num_layers=6, num_heads=2, feedforward_channels=256),
        img_size=32,
        patch_size=8,
        init_cfg=dict(type='Pretrained', checkpoint='ftsgd://vit-tiny'),
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=64,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
