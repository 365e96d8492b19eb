"""Sup. ViT-B/16 (ImageNet-21k) on DomainNet with gradual unfreezing.

python tools/prepare_data.py domainnet data/domainnet
python tools/train.py configs/vit-b16_gradual-unfreezing_domainnet.py
"""

_base_ = [
    '_base_/models/vit-b16.py',
    '_base_/methods/gradual-unfreezing.py',
    '_base_/datasets/domainnet.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=40))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # base; middle of the paper's grid, 3e-7 to 1e-4
