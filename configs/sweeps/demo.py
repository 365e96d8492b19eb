"""The digits: the built-in ViT with all six methods, 3 learning rates, 3 seeds; minutes on two CPU cores.

bash tools/demo.sh --digits                      # writes the data, runs this sweep, draws the figure
python tools/sweep.py configs/sweeps/demo.py --out work_dirs/demo
"""

models = ['vit-tiny']
datasets = ['digits']
lrs = {  # three steps of the 1-3-10 ladder around the best ID accuracy of each method (measured once, with five steps)
    'sgd': [1e-3, 3e-3, 1e-2],
    'adamw': [1e-4, 3e-4, 1e-3],
    'freeze-embed': [1e-3, 3e-3, 1e-2],
    'adamw-freeze-embed': [1e-4, 3e-4, 1e-3],
    'freeze-embed-no-momentum': [3e-3, 1e-2, 3e-2],
    'gradual-unfreezing': [3e-4, 1e-3, 3e-3],  # base rates; the first epoch has 41.68 times as much
}
seeds = [0, 1, 2]
epochs = 6  # instead of the config's 8: the demo takes eight minutes
data_roots = {'digits': 'data/digits'}
