"""FlashSGD (freeze-embed): SGD with a momentum of 8 bits over weights in bfloat16, and a frozen embedding layer.

6 bytes per trained parameter (weight and gradient of two bytes, 8 more bits of the weight, a momentum of one byte) and
a scale for every 32 of them; the frozen embedding, of 4 bytes, and the head stay in float32. Package `flashoptim`
(extra `optimizers`), on an NVIDIA GPU only; source: "FlashOptim: Optimizers for Memory-Efficient Training" (arXiv
2602.23349). The paper's grid for SGD: lr 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='flashoptim.FlashSGD', lr=1e-3, momentum=0.9, weight_decay=0.0, master_weight_bits=24),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='embed'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
