"""FlashAdamW on all layers: AdamW with moments of 8 bits over weights in bfloat16, whose lost bits the optimizer keeps.

7 bytes per parameter (weight and gradient of two bytes, 8 more bits of the weight, two moments of one byte) and two
scales for every 32 of them; embedding and head stay in float32. Package `flashoptim` (extra `optimizers`), on an NVIDIA
GPU only; source: "FlashOptim: Optimizers for Memory-Efficient Training" (arXiv 2602.23349). AdamW's grid: lr 3e-7,
1e-6, 3e-6, 1e-5, 3e-5, 1e-4.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='flashoptim.FlashAdamW',
        lr=1e-5,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.01,
        master_weight_bits=24,
    ),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
