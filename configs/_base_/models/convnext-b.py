"""ConvNeXt-B pretrained on ImageNet-22k; features after average pooling and the final norm."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[0.485 * 255, 0.456 * 255, 0.406 * 255],
        std=[0.229 * 255, 0.224 * 255, 0.225 * 255],
        to_rgb=True,
    ),
    backbone=dict(type='TimmPooledBackbone', model_name='convnext_base.fb_in22k', pretrained=True),
    head=dict(
        type='LinearClsHead',
        in_channels=1024,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
