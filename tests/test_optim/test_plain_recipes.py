"""The recipes of docs/plain.md train what a loop without the other library trains."""

import contextlib
import io
import itertools
import warnings

import pytest
import timm
import torch
from helpers import ROOT
from helpers.code_blocks import blocks, matches
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler

from ftsgd_plugin import GradualUnfreezing, param_groups

PAGE = blocks(ROOT / 'docs/plain.md')


def recipe(library: str) -> tuple[dict, str, str]:
    """Run the block that imports a library in this process: its variables, what it prints, and what the page says."""
    block, output = next(
        (block, after)
        for block, after in itertools.pairwise(PAGE)
        if block.kind == 'run' and f'import {library}' in block.code
    )
    variables, printed = {'__name__': '__main__'}, io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exec(block.code, variables)
    return variables, printed.getvalue(), output.code


def start(batches: int) -> tuple[torch.nn.Module, list]:
    """The model and batches of the recipes."""
    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', img_size=32, patch_size=8, num_classes=10)
    return model, [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(batches)]


def update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, images, labels) -> None:
    cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def assert_same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    assert all(torch.equal(mine, other) for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_timm():
    variables, printed, said = recipe('ClassificationTask')
    assert matches(said, printed, numbers=False), printed
    model, loader = start(4)
    optimizer = torch.optim.SGD(param_groups(model, lr=1e-3), momentum=0.9)
    for rate in (1e-3, 5e-4):
        for group in optimizer.param_groups:
            group['lr'] = rate
        for images, labels in loader:
            update(model, optimizer, images, labels)
    assert_same_weights(variables['model'], model)


def test_the_loop_of_the_page():
    variables, printed, said = recipe('GradualUnfreezing, LayerGradNorms')
    assert matches(said, printed, numbers=False), printed
    assert isinstance(variables['scheduler'], LRScheduler)


@pytest.mark.slow
def test_lightning():
    """Its import takes longer than all other tests of plain loops; a closure for ``step`` has a fast test."""
    pytest.importorskip('lightning.pytorch', reason='needs lightning, one of the test requirements')
    variables, printed, said = recipe('lightning')
    assert matches(said, printed, numbers=False), printed
    model, loader = start(4)
    optimizer = torch.optim.SGD(param_groups(model, lr=1e-4), momentum=0.9)
    scheduler = GradualUnfreezing(optimizer, model, total_steps=8)
    for images, labels in 2 * loader:
        update(model, optimizer, images, labels)
        scheduler.step()
    assert_same_weights(variables['model'], model)
