"""SGD with momentum on all layers: 12 bytes per parameter. Sweep of the paper: lr 3e-5 to 1e-2."""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
# Constant within an epoch, no warm-up, ends at lr/2 * (1 + cos(pi (E-1) / E)) (paper's code).
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
