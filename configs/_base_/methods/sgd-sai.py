"""SGD-SaI on all layers: SGD with momentum whose rate is scaled once per weight tensor, by its first gradient.

12 bytes per parameter (weight, gradient, momentum). Package `sgd-sai` (extra `optimizers`); source: "No More Adam:
Learning Rate Scaling at Initialization is All You Need" (arXiv 2412.11768). A tensor that opens later is scaled by its
own first gradient. The scale of a tensor of n weights is up to sqrt(n): the rate is far below SGD's. This project's
grid: lr 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='sgd_sai.SGD_sai', lr=1e-5, momentum=0.9, eps=1e-8, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
