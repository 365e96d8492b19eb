"""SGD on all layers, with rates that are scaled once by the first gradients: the embedding moves less instead of not.

12 bytes per parameter (weight, gradient, momentum). Source: this project, not the paper: a stage (a block, or the
layers of a role) whose gradient per parameter is larger than that of the median block has a rate smaller by that ratio
(`paramwise_cfg.lr_mult='gradient'`, docs/learning_rates.md). The nearest relative in the literature is SGD-SaI
(`sgd-sai.py`). SGD's grid: lr 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none', lr_mult='gradient'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
