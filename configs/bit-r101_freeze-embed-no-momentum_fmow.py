"""BiT ResNet-101 (ImageNet-21k) on FMoW with SGD (freeze-embed, no momentum).

python tools/prepare_data.py fmow data/fmow_v1.1
python tools/train.py configs/bit-r101_freeze-embed-no-momentum_fmow.py
"""

_base_ = [
    '_base_/models/bit-r101.py',
    '_base_/methods/freeze-embed-no-momentum.py',
    '_base_/datasets/fmow.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=62))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
