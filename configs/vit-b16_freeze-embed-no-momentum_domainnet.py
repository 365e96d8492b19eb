"""Sup. ViT-B/16 (ImageNet-21k) on DomainNet with SGD (freeze-embed, no momentum).

python tools/prepare_data.py domainnet data/domainnet
python tools/train.py configs/vit-b16_freeze-embed-no-momentum_domainnet.py
"""

_base_ = [
    '_base_/models/vit-b16.py',
    '_base_/methods/freeze-embed-no-momentum.py',
    '_base_/datasets/domainnet.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=40))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
