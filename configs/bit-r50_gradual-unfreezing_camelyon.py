"""BiT ResNet-50 (ImageNet-21k) on Camelyon with gradual unfreezing.

python tools/prepare_data.py camelyon data/camelyon17_v1.0
python tools/train.py configs/bit-r50_gradual-unfreezing_camelyon.py
"""

_base_ = [
    '_base_/models/bit-r50.py',
    '_base_/methods/gradual-unfreezing.py',
    '_base_/datasets/camelyon.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # base; middle of the paper's grid, 3e-7 to 1e-4
