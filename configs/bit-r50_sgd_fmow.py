"""BiT ResNet-50 (ImageNet-21k) on FMoW with SGD.

python tools/prepare_data.py fmow data/fmow_v1.1
python tools/train.py configs/bit-r50_sgd_fmow.py

The paper: ID 64.6 %, OOD 34.1 % (one seed).
"""

_base_ = [
    '_base_/models/bit-r50.py',
    '_base_/methods/sgd.py',
    '_base_/datasets/fmow.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=62))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
