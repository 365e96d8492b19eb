"""BiT-M ResNet-101x1 pretrained on ImageNet-21k; after norm, ReLU and average pooling."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        to_rgb=True,
    ),
    backbone=dict(type='TimmPooledBackbone', model_name='resnetv2_101x1_bit.goog_in21k', pretrained=True),
    head=dict(
        type='LinearClsHead',
        in_channels=2048,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
