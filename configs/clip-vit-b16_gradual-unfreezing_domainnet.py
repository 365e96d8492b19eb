"""CLIP ViT-B/16 on DomainNet with gradual unfreezing.

python tools/prepare_data.py domainnet data/domainnet
python tools/train.py configs/clip-vit-b16_gradual-unfreezing_domainnet.py

The paper: ID 96.3 ± 0.1 %, OOD 93.2 ± 0.3 % (3 seeds, 90 % interval).
"""

_base_ = [
    '_base_/models/clip-vit-b16.py',
    '_base_/methods/gradual-unfreezing.py',
    '_base_/datasets/domainnet.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=40))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # base; the authors' best
