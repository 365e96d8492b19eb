"""SGD in backward: plain SGD (freeze-embed) that updates each parameter as soon as its gradient is complete.

4 bytes per parameter (weight) and the gradient of the largest layer. Not in the paper; its grid for SGD: lr 3e-5, 1e-4,
3e-4, 1e-3, 3e-3, 1e-2.
"""

optim_wrapper = dict(
    type='SGDInBackwardOptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.0, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='embed'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
