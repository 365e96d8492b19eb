"""Swin-V2-T pretrained on ImageNet-1k at 256 pixels with windows of 8, here at 224 pixels with windows of 7.

The biases are a function of the relative position, so they carry over; positions are scaled as in pretraining.
"""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[0.485 * 255, 0.456 * 255, 0.406 * 255],
        std=[0.229 * 255, 0.224 * 255, 0.225 * 255],
        to_rgb=True,
    ),
    backbone=dict(
        type='TimmPooledBackbone',
        model_name='swinv2_tiny_window8_256.ms_in1k',
        img_size=224,
        window_size=7,
        pretrained_window_sizes=(8, 8, 8, 8),
        drop_path_rate=0.0,  # as the paper's seven; timm's default is 0.1
        pretrained=True,
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
