"""DINO ViT-B/16 on Camelyon with AdamW (freeze-embed).

python tools/prepare_data.py camelyon data/camelyon17_v1.0
python tools/train.py configs/dino-vit-b16_adamw-freeze-embed_camelyon.py
"""

_base_ = [
    '_base_/models/dino-vit-b16.py',
    '_base_/methods/adamw-freeze-embed.py',
    '_base_/datasets/camelyon.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # middle of the paper's grid, 3e-7 to 1e-4
