"""CLIP ViT-B/16 with OpenAI's weights (open_clip, quick-GELU); features after the projection."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255],
        std=[0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255],
        to_rgb=True,
    ),
    backbone=dict(type='OpenCLIPVisionTower', model_name='ViT-B-16-quickgelu', pretrained=True),
    head=dict(
        type='LinearClsHead',
        in_channels=512,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
