"""The paper's two tables: 7 models x 5 datasets x 4 methods x 6 learning rates, 1 seed, 3 for CLIP ViT-B/16.

python tools/sweep.py configs/sweeps/paper.py --dry-run
python tools/sweep.py configs/sweeps/paper.py --out work_dirs/paper

Epochs and batch sizes are those of the configs, and of the authors. Gradual unfreezing is in `clip.py`.
"""

models = ['clip-vit-b16', 'clip-vit-l14', 'vit-b16', 'dino-vit-b16', 'convnext-b', 'bit-r50', 'bit-r101']
datasets = ['living17', 'waterbirds', 'domainnet', 'fmow', 'camelyon']
lrs = {  # the keys are the methods
    'sgd': [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    'adamw': [3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4],
    'freeze-embed': [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    'adamw-freeze-embed': [3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4],
}
seeds = [0]
model_seeds = {'clip-vit-b16': [0, 1, 2]}
data_roots = {
    'living17': 'data/imagenet',
    'waterbirds': 'data/waterbirds_v1.0',
    'domainnet': 'data/domainnet',
    'fmow': 'data/fmow_v1.1',
    'camelyon': 'data/camelyon17_v1.0',
}
