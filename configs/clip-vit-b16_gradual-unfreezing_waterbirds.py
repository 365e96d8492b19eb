"""CLIP ViT-B/16 on Waterbirds with gradual unfreezing.

python tools/prepare_data.py waterbirds data/waterbirds_v1.0
python tools/train.py configs/clip-vit-b16_gradual-unfreezing_waterbirds.py

The paper: ID 98.3 ± 0.0 %, OOD 69.1 ± 3.4 % (3 seeds, 90 % interval).
"""

_base_ = [
    '_base_/models/clip-vit-b16.py',
    '_base_/methods/gradual-unfreezing.py',
    '_base_/datasets/waterbirds.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=1e-4))  # base; the authors' best
