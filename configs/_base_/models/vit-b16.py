"""ViT-B/16 pretrained on ImageNet-21k (AugReg); class token after the final norm."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        to_rgb=True,
    ),
    backbone=dict(type='TimmPooledBackbone', model_name='vit_base_patch16_224.augreg_in21k', pretrained=True),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
