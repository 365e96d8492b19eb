"""A real pretrained network on real images: DINOv2 ViT-S/14 on the solar cells of ELPV, six methods, both directions.

python tools/get_weights.py dinov2-vit-s14 && python tools/prepare_data.py elpv
python benchmarks/real_model.py run                  # this grid, then three seeds at the best rates, and the page
python tools/sweep.py configs/sweeps/real.py --dry-run

At 84 pixels a run takes at most four minutes on one CPU core; OOD is every third cell of the other kind then.
`benchmarks/real_model.py run --image-size 224` is the size of the configs, with all cells.
"""

models = ['dinov2-vit-s14']
datasets = ['elpv-mono', 'elpv-poly']
lrs = {  # the paper's ladder where a first trial had its best; SGD needs 3e-5 and 1e-4 here
    'sgd': [3e-5, 1e-4, 3e-4, 1e-3],
    'adamw': [3e-6, 1e-5, 3e-5, 1e-4],
    'freeze-embed': [1e-4, 3e-4, 1e-3, 3e-3],
    'adamw-freeze-embed': [3e-6, 1e-5, 3e-5, 1e-4],
    'freeze-embed-no-momentum': [1e-3, 3e-3, 1e-2, 3e-2],
    'gradual-unfreezing': [3e-6, 1e-5, 3e-5, 1e-4],  # base rates; the first epoch has 41.68 times as much
}
seeds = [0]
image_size = 84
dataset_options = {
    'elpv-mono': {
        'train_cfg.max_epochs': 3,
        'val_dataloader.dataset.datasets.1.indices': list(range(0, 1550, 3)),
    },
    'elpv-poly': {
        'train_cfg.max_epochs': 2,
        'val_dataloader.dataset.datasets.1.indices': list(range(0, 1074, 3)),
    },
}
data_roots = {'elpv-mono': 'data/elpv', 'elpv-poly': 'data/elpv'}
