"""ConvNeXt-B (ImageNet-22k) on Living-17 with SGD (freeze-embed).

python tools/prepare_data.py living17 data/imagenet
python tools/train.py configs/convnext-b_freeze-embed_living17.py

The paper: ID 98.6 %, OOD 92.6 % (one seed).
"""

_base_ = [
    '_base_/models/convnext-b.py',
    '_base_/methods/freeze-embed.py',
    '_base_/datasets/living17.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=17))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
