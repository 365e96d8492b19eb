"""DINOv2 ViT-B/14 on ELPV (mono to poly) with SGD.

python tools/prepare_data.py elpv
python tools/train.py configs/dinov2-vit-b14_sgd_elpv-mono.py
"""

_base_ = [
    '_base_/models/dinov2-vit-b14.py',
    '_base_/methods/sgd.py',
    '_base_/datasets/elpv-mono.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=1e-4))  # from a first trial
