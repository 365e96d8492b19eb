"""Schedule-Free SGD on all layers: an average of the weights in place of a learning-rate schedule.

12 bytes per parameter (weight, gradient, the second point). Package `schedulefree` (extra `optimizers`); source: "The
Road Less Scheduled" (arXiv 2405.15682). Its authors advise 10 to 50 times the rate of SGD. This project's grid, SGD's
raised by that: lr 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1. There is no schedule; evaluation and checkpoints have the
averaged weights.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='schedulefree.SGDScheduleFree', lr=3e-2, momentum=0.9, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = None
