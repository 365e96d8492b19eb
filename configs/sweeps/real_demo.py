"""The demo: three runs of the benchmark `real.py`, DINOv2 on polycrystalline cells, minutes on two CPU cores.

bash tools/demo.sh                               # gets both packages, measures gradients, runs this, compares
python tools/sweep.py configs/sweeps/real_demo.py --forked --out work_dirs/demo_real

Network, images, their size and the epochs are the benchmark's. The rates are each method's best by ID accuracy there,
with the first seed; `benchmarks/real_model_84px.md` states them, with further seeds.
"""

_base_ = './real.py'

datasets = ['elpv-poly']
lrs = {'_delete_': True, 'sgd': [3e-5], 'adamw': [1e-5], 'freeze-embed': [3e-4]}
seeds = [0]
dataset_options = {
    '_delete_': True,
    # Evaluated once: in the benchmark the last epoch is the best by ID accuracy for each of these runs.
    'elpv-poly': {**_base_.dataset_options['elpv-poly'], 'train_cfg.val_interval': 2},
}
data_roots = {'_delete_': True, 'elpv-poly': _base_.data_roots['elpv-poly']}
