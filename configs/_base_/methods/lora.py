"""LoRA: AdamW on adapters of rank 8 in every linear layer of attention, and on the head.

16 bytes per trained parameter (weight, gradient, two moments), 4 per frozen one. MMPretrain's `LoRAModel`; source:
"LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685). This project's grid: lr 3e-5, 1e-4, 3e-4, 1e-3,
3e-3, 1e-2. `tools/train.py` puts the adapters into the model. Networks without attention, and CLIP's towers, whose
projections are one parameter, are refused. The embedding layer is frozen with the rest.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='none', lora=dict(rank=8, alpha=8)),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
