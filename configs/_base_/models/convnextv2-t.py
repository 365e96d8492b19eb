"""ConvNeXt-V2-T pretrained with FCMAE, fine-tuned on ImageNet-22k and 1k; after average pooling and the final norm."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[0.485 * 255, 0.456 * 255, 0.406 * 255],
        std=[0.229 * 255, 0.224 * 255, 0.225 * 255],
        to_rgb=True,
    ),
    backbone=dict(type='TimmPooledBackbone', model_name='convnextv2_tiny.fcmae_ft_in22k_in1k', pretrained=True),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
