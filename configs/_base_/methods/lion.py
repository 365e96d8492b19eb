"""Lion on all layers: the sign of an average of gradients, with one moment.

12 bytes per parameter (weight, gradient, moment). timm's `Lion`; source: "Symbolic Discovery of Optimization
Algorithms" (arXiv 2302.06675), which advises a rate 3 to 10 times below AdamW's and a weight decay as much above. This
project's grid, AdamW's lowered by that: lr 1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='timm.optim.Lion', lr=1e-6, betas=(0.9, 0.99), weight_decay=0.1),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
