"""BiT ResNet-101 (ImageNet-21k) on DomainNet with SGD.

python tools/prepare_data.py domainnet data/domainnet
python tools/train.py configs/bit-r101_sgd_domainnet.py

The paper: ID 92.0 %, OOD 86.2 % (one seed).
"""

_base_ = [
    '_base_/models/bit-r101.py',
    '_base_/methods/sgd.py',
    '_base_/datasets/domainnet.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=40))
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # middle of the paper's grid, 3e-5 to 1e-2
