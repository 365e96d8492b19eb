"""Sup. ViT-B/16 (ImageNet-21k) on DomainNet with AdamW (freeze-embed).

python tools/prepare_data.py domainnet data/domainnet
python tools/train.py configs/vit-b16_adamw-freeze-embed_domainnet.py
"""

_base_ = [
    '_base_/models/vit-b16.py',
    '_base_/methods/adamw-freeze-embed.py',
    '_base_/datasets/domainnet.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=40))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # middle of the paper's grid, 3e-7 to 1e-4
