"""The part for plain loops works where of all libraries only PyTorch is installed."""

import sys

from helpers import ROOT, run_process

# Hides every installed library but PyTorch, what it requires, and the three small libraries by which
# `import ftsgd_plugin` finds its names.
PROGRAM = """
import importlib.machinery, importlib.metadata, re, sys

def required(name, seen):
    if name in seen:
        return seen
    seen.add(name)
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        if 'extra ==' not in line:
            required(re.match(r'[\\w.-]+', line)[0].lower().replace('_', '-'), seen)
    return seen

kept = set()
for name in ('torch', 'lazy-loader', 'packaging', 'wrapt'):
    required(name, kept)
hidden = {
    top
    for top, owners in importlib.metadata.packages_distributions().items()
    if not {owner.lower().replace('_', '-') for owner in owners} & kept and top != 'ftsgd_plugin'
}
assert {'mmengine', 'mmpretrain', 'mmcv', 'timm', 'open_clip', 'torchvision', 'numpy'} <= hidden, sorted(hidden)
find, before = importlib.machinery.PathFinder.find_spec, {*sys.modules}

class Installed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition('.')[0] in hidden else find(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Installed

import torch
from torch import nn
from ftsgd_plugin import (
    Entry, GradualUnfreezing, LayerGradNorms, UserError, freeze_layers, list_layers, param_groups, register_layer_list,
    select_layers,
)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.fc(self.norm(x))

@register_layer_list(Net)
def net_layers(net):
    yield Entry('stem', 'embed', 'stem')
    for i in range(3):
        yield Entry(f'blocks.{i}', 'block', f'blocks.{i}', block=i)
    yield Entry('norm', 'norm', 'norm')
    yield Entry('head', 'head', 'fc')

model = Net()
freeze_layers(model, select_layers(list_layers(model), 'stem'))
optimizer = torch.optim.AdamW(param_groups(model, lr=1e-2, weight_decay=0.1, norm_decay_mult=0, layer_decay_rate=0.5))
scheduler = GradualUnfreezing(optimizer, model, total_steps=4)
stem = model.stem.weight.detach().clone()
opened = []
with LayerGradNorms(model) as norms:
    for _ in range(4):
        opened.append(scheduler.open_blocks)
        model(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
scheduler.load_state_dict(scheduler.state_dict())
assert opened == [0, 1, 2, 3] and torch.equal(stem, model.stem.weight)
assert [row['updates'] for row in norms.read()] == [1, 2, 3, 3, 4]
try:
    param_groups(model, freeze='first')
except UserError as error:
    assert "freeze='first' is none of" in str(error)
assert not hidden & {name.partition('.')[0] for name in {*sys.modules} - before}
print('trained')
"""


def test_groups_unfreezing_and_norms_need_pytorch_alone(tmp_path):
    result = run_process(sys.executable, '-W', 'ignore', '-c', PROGRAM, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'trained\n'
