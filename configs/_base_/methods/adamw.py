"""AdamW on all layers.

16 bytes per parameter (weight, gradient, two moments). The paper's grid: lr 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4.

Weight decay 0.01 is the value in the paper and PyTorch's default, which applies if the config sets none. The paper's
code sets 0.0 at its last commit, but did not before December 2022; which of the two produced the tables is not
recorded. The effect is small: at lr 1e-5, 28,000 steps under the cosine shrink the weights by 0.14 %.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
