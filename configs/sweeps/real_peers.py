"""What scales rates instead of freezing, beside freeze-embed, on the network and the images of `real.py`.

python benchmarks/real_model.py run --methods freeze-embed sgd-gradient-rates sgd-sai
python tools/sweep.py configs/sweeps/real_peers.py --dry-run

`benchmarks/real_model.py` takes the rates of methods that `real.py` does not have from here.
"""

_base_ = 'real.py'
lrs = {
    '_delete_': True,
    'freeze-embed': [1e-4, 3e-4, 1e-3, 3e-3],
    'sgd-gradient-rates': [1e-4, 3e-4, 1e-3, 3e-3],
    'sgd-sai': [1e-6, 3e-6, 1e-5, 3e-5],  # its scales are up to the root of a tensor's size
}
