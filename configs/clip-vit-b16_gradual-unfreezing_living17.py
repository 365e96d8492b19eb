"""CLIP ViT-B/16 on Living-17 with gradual unfreezing.

python tools/prepare_data.py living17 data/imagenet
python tools/train.py configs/clip-vit-b16_gradual-unfreezing_living17.py

The paper: ID 98.3 ± 0.1 %, OOD 81.9 ± 0.1 % (3 seeds, 90 % interval).
"""

_base_ = [
    '_base_/models/clip-vit-b16.py',
    '_base_/methods/gradual-unfreezing.py',
    '_base_/datasets/living17.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=17))
optim_wrapper = dict(optimizer=dict(lr=3e-5))  # base; the authors' best
