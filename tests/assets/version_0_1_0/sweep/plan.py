models = ['vit-tiny']
datasets = ['digits']
lrs = {'sgd': [1e-3, 1e-2], 'freeze-embed': [1e-3, 1e-2]}
seeds = [0, 1]
epochs = 2
data_roots = {'digits': 'data/digits'}
