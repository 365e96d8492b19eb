"""BiT ResNet-50 (ImageNet-21k) on FMoW with AdamW.

python tools/prepare_data.py fmow data/fmow_v1.1
python tools/train.py configs/bit-r50_adamw_fmow.py

The paper: ID 65.1 %, OOD 33.8 % (one seed).
"""

_base_ = [
    '_base_/models/bit-r50.py',
    '_base_/methods/adamw.py',
    '_base_/datasets/fmow.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=62))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # middle of the paper's grid, 3e-7 to 1e-4
