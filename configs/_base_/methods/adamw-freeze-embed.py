"""AdamW (freeze-embed): AdamW with a frozen embedding layer.

16 bytes per trained parameter (weight, gradient, two moments), 4 per frozen one. The paper's grid: lr 3e-7, 1e-6, 3e-6,
1e-5, 3e-5, 1e-4. Weight decay 0.01 (`adamw.py` explains the open question); the embedding layer does not decay.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='embed'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
