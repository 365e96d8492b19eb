"""Surgical fine-tuning of the first block: Adam on everything up to the first block, and on the head, which is new.

16 bytes per trained parameter (weight, gradient, two moments), 4 per frozen one. Source: "Surgical Fine-Tuning Improves
Adaptation to Distribution Shifts" (arXiv 2210.11466): the best choice for corrupted images, and the opposite of
freeze-embed. What its code calls the first block of a ResNet is the stem and the first stage; of a ViT here the
embedding, the position and the first block. There the head comes from the source task and stays. The grid of its code,
with its weight decay: lr 1e-5, 1e-4, 1e-3, 1e-2, 1e-1.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4),
    constructor='FreezeEmbedOptimWrapperConstructor',
    paramwise_cfg=dict(freeze='all-but-first-block'),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
