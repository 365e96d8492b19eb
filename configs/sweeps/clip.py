"""The paper's CLIP table: CLIP ViT-B/16 with all six methods on 5 datasets, 6 learning rates, 3 seeds.

python tools/sweep.py configs/sweeps/clip.py --dry-run
python tools/sweep.py configs/sweeps/clip.py --out work_dirs/clip
"""

models = ['clip-vit-b16']
datasets = ['living17', 'waterbirds', 'domainnet', 'fmow', 'camelyon']
lrs = {
    'sgd': [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    'adamw': [3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4],
    'freeze-embed': [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    'adamw-freeze-embed': [3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4],
    'freeze-embed-no-momentum': [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    'gradual-unfreezing': [3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4],  # base rates; the first epoch has 41.68 times as much
}
seeds = [0, 1, 2]
data_roots = {
    'living17': 'data/imagenet',
    'waterbirds': 'data/waterbirds_v1.0',
    'domainnet': 'data/domainnet',
    'fmow': 'data/fmow_v1.1',
    'camelyon': 'data/camelyon17_v1.0',
}
