"""LARS on all layers: SGD with momentum whose step is `eta` times the norm of each weight tensor, times lr.

12 bytes per parameter (weight, gradient, momentum). The paper's grid: lr 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, and on
Living-17, Waterbirds and DomainNet 3e-4 and 1e-3.

The paper's LARS was SGD in effect: its library (torch_optimizer) skips the scaling at weight decay 0, which was set.
MMPretrain's `LARS` scales at any weight decay. Neither the paper's numbers nor its grid apply to it: before momentum, a
step moves a tensor by lr * eta of its norm, whatever its gradient.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='LARS', lr=1e-3, momentum=0.9, weight_decay=0.0, eta=0.01),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
