"""ViT-S/14 pretrained with DINOv2 on LVD-142M, at 224 pixels; class token after the final norm.

Where timm's hub cannot be reached: `python tools/get_weights.py dinov2-vit-s14`, then
`pretrained='data/weights/dinov2-vit-s14.safetensors'`.
"""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[0.485 * 255, 0.456 * 255, 0.406 * 255],
        std=[0.229 * 255, 0.224 * 255, 0.225 * 255],
        to_rgb=True,
    ),
    backbone=dict(
        type='TimmPooledBackbone', model_name='vit_small_patch14_dinov2.lvd142m', img_size=224, pretrained=True
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=384,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
