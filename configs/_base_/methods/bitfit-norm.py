"""BitFit and norms: AdamW on biases, the scales of norms, and the head.

16 bytes per trained parameter (weight, gradient, two moments), 4 per frozen one. Sources: BitFit (arXiv 2106.10199) and
training norms only (arXiv 2003.00152). This project's grid: lr 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2. `freeze='embed'`
freezes the biases of the embedding layer too.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none', train='norms-and-biases'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
