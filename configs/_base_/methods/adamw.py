"""AdamW on all layers: 16 bytes per parameter. Sweep of the paper: lr 3e-7 to 1e-4.

Weight decay 0.0 is what the paper's code sets at its last commit; PyTorch's default 0.01 may have been in force for the
published tables (their effect differs by less than 0.2 % shrinkage).
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
