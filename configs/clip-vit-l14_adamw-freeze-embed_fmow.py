"""CLIP ViT-L/14 on FMoW with AdamW (freeze-embed).

python tools/prepare_data.py fmow data/fmow_v1.1
python tools/train.py configs/clip-vit-l14_adamw-freeze-embed_fmow.py
"""

_base_ = [
    '_base_/models/clip-vit-l14.py',
    '_base_/methods/adamw-freeze-embed.py',
    '_base_/datasets/fmow.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=62))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # middle of the paper's grid, 3e-7 to 1e-4
