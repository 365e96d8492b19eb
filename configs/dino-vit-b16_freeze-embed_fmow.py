"""DINO ViT-B/16 on FMoW with SGD (freeze-embed).

python tools/prepare_data.py fmow data/fmow_v1.1
python tools/train.py configs/dino-vit-b16_freeze-embed_fmow.py

The paper: ID 63.5 %, OOD 35.9 % (one seed).
"""

_base_ = [
    '_base_/models/dino-vit-b16.py',
    '_base_/methods/freeze-embed.py',
    '_base_/datasets/fmow.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=62))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
