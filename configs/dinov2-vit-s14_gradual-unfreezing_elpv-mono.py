"""DINOv2 ViT-S/14 on ELPV (mono to poly) with gradual unfreezing.

python tools/prepare_data.py elpv
python tools/train.py configs/dinov2-vit-s14_gradual-unfreezing_elpv-mono.py
"""

_base_ = [
    '_base_/models/dinov2-vit-s14.py',
    '_base_/methods/gradual-unfreezing.py',
    '_base_/datasets/elpv-mono.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # base; from a first trial
