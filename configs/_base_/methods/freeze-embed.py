"""SGD (freeze-embed): the paper's method, SGD with momentum and a frozen embedding layer. Sweep: lr 3e-5 to 1e-2."""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='embed'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
