"""Gradual unfreezing: SGD with momentum that opens blocks from the head down, never the embedding layer.

At most 12 bytes per parameter (weight, gradient, momentum); 4 while its block is closed. The paper's grid of base
rates: 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4. Training starts at exp(3.73) = 41.68 times the base and ends at the base.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-5, momentum=0.9, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='embed'),
)
param_scheduler = dict(type='GradualUnfreezingLR', by_epoch=True, decay=3.73)
