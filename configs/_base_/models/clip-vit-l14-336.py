"""CLIP ViT-L/14 at 336 pixels with OpenAI's weights (open_clip, quick-GELU)."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255],
        std=[0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255],
        to_rgb=True,
    ),
    backbone=dict(type='OpenCLIPVisionTower', model_name='ViT-L-14-336-quickgelu', pretrained=True),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
