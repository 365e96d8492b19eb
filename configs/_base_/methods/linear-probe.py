"""Linear probe: SGD with momentum on the head alone.

12 bytes per trained parameter (weight, gradient, momentum), 4 per frozen one. Not in the paper's tables. This project's
grid: lr 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1. The embedding layer is frozen with everything else.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='all-but-head'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
