"""AdamW with moments of 8 bits on all layers.

10 bytes per parameter (weight, gradient, two moments of one byte each) and a scale for every 256 of them; tensors
below 4,096 weights keep moments of 32 bits. Package `torchao` (extra `optimizers`); source: "8-bit Optimizers via
Block-wise Quantization" (arXiv 2110.02861). Where bitsandbytes is installed (extra `bitsandbytes`),
`type='bitsandbytes.optim.AdamW8bit'` takes its kernels instead. AdamW's grid: lr 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='torchao.optim.AdamW8bit', lr=1e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
