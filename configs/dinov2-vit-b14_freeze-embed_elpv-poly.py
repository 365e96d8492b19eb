"""DINOv2 ViT-B/14 on ELPV (poly to mono) with SGD (freeze-embed).

python tools/prepare_data.py elpv
python tools/train.py configs/dinov2-vit-b14_freeze-embed_elpv-poly.py
"""

_base_ = [
    '_base_/models/dinov2-vit-b14.py',
    '_base_/methods/freeze-embed.py',
    '_base_/datasets/elpv-poly.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=3e-4))  # from a first trial
