"""Sup. ViT-B/16 (ImageNet-21k) on FMoW with SGD.

python tools/prepare_data.py fmow data/fmow_v1.1
python tools/train.py configs/vit-b16_sgd_fmow.py

The paper: ID 64.1 %, OOD 33.5 % (one seed).
"""

_base_ = [
    '_base_/models/vit-b16.py',
    '_base_/methods/sgd.py',
    '_base_/datasets/fmow.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=62))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
