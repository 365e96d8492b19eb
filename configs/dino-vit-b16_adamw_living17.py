"""DINO ViT-B/16 on Living-17 with AdamW.

python tools/prepare_data.py living17 data/imagenet
python tools/train.py configs/dino-vit-b16_adamw_living17.py

The paper: ID 98.5 %, OOD 87.4 % (one seed).
"""

_base_ = [
    '_base_/models/dino-vit-b16.py',
    '_base_/methods/adamw.py',
    '_base_/datasets/living17.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=17))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # middle of the paper's grid, 3e-7 to 1e-4
