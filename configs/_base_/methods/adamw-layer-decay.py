"""AdamW with layer-wise learning-rate decay: the rate falls by a factor of 0.65 from each block to the one before.

16 bytes per parameter (weight, gradient, two moments). Source: the fine-tuning recipes of BEiT (arXiv 2106.08254) and
MAE (arXiv 2111.06377). This project's grid, of the head's rate: lr 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none', layer_decay_rate=0.65),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
