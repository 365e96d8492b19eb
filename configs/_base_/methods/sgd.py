"""SGD with momentum on all layers.

12 bytes per parameter (weight, gradient, momentum). The paper's grid: lr 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
# Constant within an epoch, no warm-up, ends at lr/2 * (1 + cos(pi (E-1) / E)) (paper's code).
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
