"""CLIP ViT-L/14 on FMoW with gradual unfreezing.

python tools/prepare_data.py fmow data/fmow_v1.1
python tools/train.py configs/clip-vit-l14_gradual-unfreezing_fmow.py
"""

_base_ = [
    '_base_/models/clip-vit-l14.py',
    '_base_/methods/gradual-unfreezing.py',
    '_base_/datasets/fmow.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=62))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # base; middle of the paper's grid, 3e-7 to 1e-4
