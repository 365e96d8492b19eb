"""Every code block of README.md and docs/ works: run, loaded as a config, or checked; see helpers/code_blocks.py."""

import argparse
import itertools
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.code_blocks import KINDS, Block, blocks, commands, matches, pages, replace_output
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import HOOKS, MODELS

PAGES = {page.relative_to(ROOT).as_posix(): page for page in pages()}
ALL = [block for page in PAGES.values() for block in blocks(page)]
UPDATE = bool(os.environ.get('FTSGD_UPDATE_DOCS'))
MAX_SKIPS = 7
TINY = ' '.join(f'{loop}_dataloader.dataset.datasets.{i}.indices=16' for loop in ('val', 'test') for i in (0, 1))


def of_kind(*kinds: str) -> pytest.MarkDecorator:
    chosen = [block for block in ALL if block.kind in kinds]
    return pytest.mark.parametrize('block', chosen, ids=[block.name for block in chosen])


def check_output(block: Block, printed: str) -> None:
    """Compare an output block with what was printed, or write that into the page."""
    if UPDATE:
        replace_output(block, printed)
    else:
        assert matches(block.code, printed, block.kind == 'numbers'), f'{block.name}: printed\n{printed}'


@pytest.mark.parametrize('block', ALL, ids=[block.name for block in ALL])
def test_every_block_is_classified(block):
    kinds = KINDS.get(block.language, {'skip'})
    assert block.kind in kinds, f'{block.name}: put <!-- test: {" | ".join(sorted(kinds))} --> before the block'
    assert block.kind != 'skip' or len(block.words) > 15, f'{block.name}: a skip needs a reason'


def test_few_blocks_are_skipped():
    assert len([block for block in ALL if block.kind == 'skip']) <= MAX_SKIPS


class _Lines(logging.Handler):
    """What a logger reports, one message after another."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ''

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + '\n'


@of_kind('config')
def test_config_block_loads_and_its_model_and_optimizer_build(block, tmp_path):
    """Where an output follows the block, it is what the constructor reports at the start of a run."""
    (tmp_path / '_base_').symlink_to(ROOT / 'configs/_base_')
    code = block.code
    if block.words:
        code = f'_base_ = [{str(ROOT / block.words.removeprefix("on "))!r}]\n{code}'
    path = tmp_path / 'my_config.py'
    path.write_text(code)
    logger, lines = MMLogger.get_current_instance(), _Lines()
    logger.addHandler(lines)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        cfg = Config.fromfile(path)
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        for hook in cfg.get('custom_hooks', []):
            HOOKS.build(hook)
    assert cfg.optim_wrapper.constructor == 'FreezeEmbedOptimWrapperConstructor'
    trained = {id(param) for param in model.parameters() if param.requires_grad}
    assert trained == {id(param) for group in optim_wrapper.optimizer.param_groups for param in group['params']}
    following = dict(itertools.pairwise(ALL)).get(block)
    if following is not None and following.page == block.page and following.kind == 'output':
        check_output(following, lines.text[lines.text.index('freeze=') :])


class _Parsed(BaseException):
    """Raised in the place of what a program does after parsing its options."""


@of_kind('parse')
def test_command_block_names_programs_and_options_that_exist(block, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
    for command in commands(block.code):
        words = [word for word in shlex.split(command) if not re.fullmatch(r'[A-Z_]+=\S*', word)]
        for word in words:
            if word.startswith(('configs/', 'tools/', 'benchmarks/')):
                assert (ROOT / word).is_file(), f'{block.name}: {word} does not exist'
        if words[0] == 'python' and words[1].endswith('.py'):
            monkeypatch.setattr(sys, 'argv', words[1:])
            with pytest.raises(_Parsed):
                runpy.run_path(str(ROOT / words[1]), run_name='__main__')
        elif words[0] == 'bash':
            assert words[1].startswith('tools/'), command
            assert subprocess.run(['bash', '-n', ROOT / words[1]]).returncode == 0
        elif words[:2] == ['pip', 'install']:
            extras = re.findall(r'\[(.+?)\]', command)
            setup = (ROOT / 'setup.py').read_text() + (ROOT / 'pyproject.toml').read_text()
            assert all(re.search(rf'\b{extra}\b', setup) for one in extras for extra in one.split(','))
        else:
            pytest.fail(f'{block.name}: {command!r}: cannot be checked; use run or skip')


def run_block(block: Block, scratch: Path, run_forked) -> str:
    """What a block prints to stdout."""
    if block.language == 'python':
        script = scratch / 'block.py'
        script.write_text(block.code)
        done = run_forked(script, cwd=scratch)
        assert done.returncode == 0, f'{block.name}: {done.stderr}'
        return done.stdout
    added = shlex.split(block.words.partition('|')[2].replace('TINY', TINY))
    wanted = 0
    if added[:1] == ['expect']:
        wanted, added = int(added[1]), added[2:]
    printed = ''
    for command in commands(block.code):
        words = shlex.split(command)
        words, limit = (words[:-3], words[-2:]) if words[-3:-2] == ['|'] else (words, None)
        assert words[0] == 'python', f'{block.name}: {command}'
        if words[1].endswith(('train.py', 'test.py')):
            words += added
        done = run_forked(*words[1:], cwd=scratch, COLUMNS='110')
        text = f'{block.name}: {command}: {done.stdout[-2000:]}{done.stderr[-2000:]}'
        assert done.returncode == wanted, text
        out = done.stdout if wanted == 0 else done.stderr.splitlines()[-1] + '\n'
        printed += _first_or_last_lines(out, *limit) if limit else out
    return printed.replace(str(scratch), '/home/me')


def _first_or_last_lines(text: str, program: str, count: str) -> str:
    """What ``head -COUNT`` or ``tail -COUNT`` leaves."""
    assert program in ('head', 'tail'), program
    lines = text.splitlines(keepends=True)
    return ''.join(lines[: -int(count)] if program == 'head' else lines[int(count) :])


# Pages that train several times or import Lightning, and whose steps other fast tests make.
SLOW = tuple(
    f'docs/{name}.md'
    for name in ('choosing', 'datasets', 'monitoring', 'own_images', 'plain', 'predict_export', 'recipes', 'sweeps')
)
RUN = [page for page in PAGES if any(block.kind == 'run' for block in blocks(PAGES[page]))]


@pytest.mark.parametrize('page', [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in RUN])
def test_blocks_of_a_page_run_and_print_what_it_says(page, tmp_path, digits_root, run_forked):
    """They run in order, in one directory with the checkout's configs and tools, as if a reader typed them."""
    for name in ('configs', 'tools', 'benchmarks'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits_root)
    printed = None
    for number, block in enumerate(blocks(PAGES[page])):
        block = blocks(PAGES[page])[number]  # again: an update moves the lines below it
        if block.kind == 'run':
            printed = run_block(block, tmp_path, run_forked)
        elif block.kind in ('output', 'numbers') and printed is not None:
            check_output(block, printed)
            printed = None
        else:
            printed = None
