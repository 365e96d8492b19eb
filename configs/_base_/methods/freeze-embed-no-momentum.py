"""SGD (freeze-embed, no momentum): plain SGD with a frozen embedding layer, without optimizer state.

8 bytes per trained parameter (weight, gradient), 4 per frozen one. The paper's grid: lr 3e-5, 1e-4, 3e-4, 1e-3, 3e-3,
1e-2.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.0, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='embed'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
