"""Sup. ViT-B/16 (ImageNet-21k) on Camelyon with SGD (freeze-embed, no momentum).

python tools/prepare_data.py camelyon data/camelyon17_v1.0
python tools/train.py configs/vit-b16_freeze-embed-no-momentum_camelyon.py
"""

_base_ = [
    '_base_/models/vit-b16.py',
    '_base_/methods/freeze-embed-no-momentum.py',
    '_base_/datasets/camelyon.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
