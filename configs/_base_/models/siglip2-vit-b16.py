"""ViT-B/16 pretrained with SigLIP 2 on WebLI; features after its attention pooling."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        to_rgb=True,
    ),
    backbone=dict(type='TimmPooledBackbone', model_name='vit_base_patch16_siglip_224.v2_webli', pretrained=True),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
