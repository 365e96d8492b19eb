"""BiT ResNet-101 (ImageNet-21k) on Camelyon with SGD (freeze-embed).

python tools/prepare_data.py camelyon data/camelyon17_v1.0
python tools/train.py configs/bit-r101_freeze-embed_camelyon.py

The paper: ID 99.5 %, OOD 95.5 % (one seed).
"""

_base_ = [
    '_base_/models/bit-r101.py',
    '_base_/methods/freeze-embed.py',
    '_base_/datasets/camelyon.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
