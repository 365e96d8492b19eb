"""Adafactor on all layers: of the second moment it keeps row and column sums only, and no first moment.

8 bytes per parameter (weight, gradient) and the sums. PyTorch's `Adafactor` (from 2.5 on); source: arXiv 1804.04235.
The step is a share of the weight tensor's own size: the rate is not AdamW's. This project's grid: lr 1e-4, 3e-4, 1e-3,
3e-3, 1e-2, 3e-2.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='torch.optim.Adafactor', lr=1e-3, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
