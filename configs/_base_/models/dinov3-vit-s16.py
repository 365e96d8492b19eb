"""ViT-S/16 pretrained with DINOv3 on LVD-1689M; class token after the final norm."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[0.485 * 255, 0.456 * 255, 0.406 * 255],
        std=[0.229 * 255, 0.224 * 255, 0.225 * 255],
        to_rgb=True,
    ),
    backbone=dict(
        type='TimmPooledBackbone',
        model_name='vit_small_patch16_dinov3.lvd1689m',
        global_pool='token',  # as DINOv3's authors; timm's default is the mean over patches
        pretrained=True,
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=384,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
