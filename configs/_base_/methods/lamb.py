"""LAMB on all layers: Adam's step, scaled to the norm of each weight tensor.

16 bytes per parameter (weight, gradient, two moments). The paper's grid: lr 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, and on
Living-17, Waterbirds and DomainNet 3e-4 and 1e-3.

MMPretrain's `Lamb` with the settings of the paper's code. The library of that code (torch_optimizer) also limits the
norm of a weight tensor to 10; `Lamb` does not.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='Lamb',
        lr=1e-4,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.0,
        always_adapt=True,  # without it, no scaling at weight decay 0: Adam
        bias_correction=False,
        max_grad_norm=1e9,  # the default clips the gradient's norm to 1
    ),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
