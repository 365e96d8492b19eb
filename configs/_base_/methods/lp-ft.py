"""LP-FT: a linear probe for half of the run, then SGD with momentum on everything from there.

At most 12 bytes per parameter (weight, gradient, momentum). Source: "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution" (arXiv 2202.10054), where the probe is a run of its own. This project's grid, of the
rate of fine-tuning: lr 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2; the probe has 10 times the rate. `freeze='embed'` keeps the
embedding layer frozen throughout.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='ProbeThenFineTuneLR', by_epoch=True, probe=0.5, probe_factor=10.0)
