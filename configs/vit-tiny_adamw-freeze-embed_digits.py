"""AdamW (freeze-embed) on the demo's digits.

python tools/make_digits.py
python tools/train.py configs/vit-tiny_adamw-freeze-embed_digits.py
"""

_base_ = [
    '_base_/models/vit-tiny.py',
    '_base_/methods/adamw-freeze-embed.py',
    '_base_/datasets/digits.py',
    '_base_/runtime.py',
]
model = dict(head=dict(num_classes=2))
optim_wrapper = dict(optimizer=dict(lr=3e-4))  # the demo sweeps around it and chooses by ID
