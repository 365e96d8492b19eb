"""ConvNeXt-B (ImageNet-22k) on FMoW with AdamW.

python tools/prepare_data.py fmow data/fmow_v1.1
python tools/train.py configs/convnext-b_adamw_fmow.py

The paper: ID 68.8 %, OOD 38.4 % (one seed).
"""

_base_ = [
    '_base_/models/convnext-b.py',
    '_base_/methods/adamw.py',
    '_base_/datasets/fmow.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=62))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # middle of the paper's grid, 3e-7 to 1e-4
