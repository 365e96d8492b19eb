"""Sup. ViT-B/16 (ImageNet-21k) on Camelyon with AdamW.

python tools/prepare_data.py camelyon data/camelyon17_v1.0
python tools/train.py configs/vit-b16_adamw_camelyon.py

The paper: ID 99.5 %, OOD 87.9 % (one seed).
"""

_base_ = [
    '_base_/models/vit-b16.py',
    '_base_/methods/adamw.py',
    '_base_/datasets/camelyon.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # middle of the paper's grid, 3e-7 to 1e-4
