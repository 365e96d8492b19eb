"""EVA-02 ViT-B/14 pretrained by masked image modelling on ImageNet-22k; mean over patches after the final norm."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255],
        std=[0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255],
        to_rgb=True,
    ),
    backbone=dict(type='TimmPooledBackbone', model_name='eva02_base_patch14_224.mim_in22k', pretrained=True),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
