"""Load a finished run: its config, its selected checkpoint, the names of its classes and its preprocessing."""

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmengine.utils import import_modules_from_strings
from mmpretrain.registry import DATASETS, MODELS
from torch import nn

from ..checkpoint.compatibility import misfits, summarise
from ..checkpoint.config_text import config_in
from ..checkpoint.io import read_content, weights_of
from ..datasets.preprocessing import Preprocessing, dataset_leaves, describe_preprocessing
from ..models.lora import merge_adapters, with_adapters
from ..records import FILE, RunRecord, read_record
from ..runner.build import read_config
from ..utils.errors import UserError
from ..utils.metrics import selecting_key
from ..utils.names import type_name
from ..utils.paths import PREVIOUS


@dataclass(frozen=True)
class FinishedRun:
    """A run ready to predict.

    Attributes:
        cfg: The config that the run dumped.
        checkpoint: The checkpoint that was read.
        model: The classifier in eval mode, with the checkpoint's weights.
        classes: Names of the classes in the order of the logits.
        preprocessing: What the evaluation does to an image; ``None`` without an evaluation pipeline in the config.
        record: The record beside the checkpoint, if there is one.
    """

    cfg: Config
    checkpoint: Path
    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None
    record: RunRecord | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def load_run(
    run: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
) -> FinishedRun:
    """Load a finished run. Neither its data nor pretrained weights are read: the checkpoint fills every tensor.

    Args:
        run: The run's work directory; or a checkpoint, which holds its config; or a config file, with ``checkpoint``.
        checkpoint: A checkpoint (default: as :func:`find_run` chooses).
        device: Default: the GPU if there is one.

    Raises:
        UserError: There is no config or checkpoint, the checkpoint cannot be read or does not fill the model, or the
            device does not exist.

    Examples:
        >>> run = load_run('work_dirs/vit-tiny_freeze-embed_digits')
        >>> run.classes
        ('digit-0-4', 'digit-5-9')
    """
    device = _device(device)
    cfg, file, content = _find(Path(run), checkpoint)
    weights = weights_of(content)
    model = build_model(cfg)
    if wrong := misfits(model, weights):
        raise UserError(
            f'{file}: does not fit the model of {cfg.filename}: {summarise(wrong)}; name the config of its run.'
        )
    model.load_state_dict(weights)
    merge_adapters(model)
    model.to(device).eval()
    return FinishedRun(
        cfg, file, model, _classes(cfg, content, model, file), describe_preprocessing(cfg), _record(file.parent)
    )


def _device(name: str | torch.device | None) -> torch.device:
    try:
        device = torch.device(get_device() if name is None else name)
    except RuntimeError:
        raise UserError(f'device={str(name)!r}: torch has no such device; write cpu, cuda or cuda:1.') from None
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f'device={str(name)!r}: this machine has {torch.cuda.device_count()} GPUs; use another, or cpu.'
        )
    return device


def find_run(directory: str | os.PathLike, checkpoint: str | os.PathLike | None = None) -> tuple[Config, Path]:
    """Find the config that a run dumped and its checkpoint.

    Args:
        directory: A run's work_dir.
        checkpoint: Default: the best by ID accuracy, or by the other ID metric of the config's ``save_best``
            (``best_id_accuracy_*.pth``); without one, the last ``epoch_*.pth``.

    Raises:
        UserError: The directory has no config or no checkpoint.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f'{directory}: no such directory; name the work_dir of a run.')
    configs = sorted(directory.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise UserError(f'{directory}: no config (*.py); name the work_dir that tools/train.py wrote.')
    cfg = read_config(str(configs[-1]))
    if checkpoint is None:
        best = f'best_{saved_by(cfg)}_'.replace('/', '_')  # as MMEngine names it
        found = [
            (path.name.startswith('best'), int(number[1]), path)
            for path in directory.glob('*.pth')
            if (number := re.fullmatch(rf'(?:{best})?(?:epoch|iter)_(\d+)\.pth', path.name))
        ]
        if not found:
            inside = sorted({path.parent for path in directory.glob('*/*.pth')} - {directory / PREVIOUS})
            hint = f'did you mean {inside[0]}?' if inside else 'name one with --checkpoint.'
            raise UserError(f'{directory}: no {best}*.pth or epoch_*.pth; {hint}')
        checkpoint = max(found)[2]
    return cfg, Path(checkpoint)


def saved_by(cfg: Config) -> str:
    """The ID metric that the checkpoint hook of a run's config saves the best of."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    return selecting_key(hook.get('save_best'))


def _find(run: Path, checkpoint: str | os.PathLike | None) -> tuple[Config, Path, dict]:
    """The config, the checkpoint and its content."""
    if run.is_dir():
        cfg, file = find_run(run, checkpoint)
    elif run.suffix == '.py':
        if checkpoint is None:
            raise UserError(f'{run}: is a config; add --checkpoint PATH, or name the work directory of the run.')
        cfg, file = read_config(str(run)), Path(checkpoint)
    elif not run.exists():
        raise UserError(f'{run}: no such run; name a work directory, a checkpoint, or a config with --checkpoint.')
    elif checkpoint is not None:
        raise UserError(f'{run}: is not a config; with --checkpoint name a work directory or a config (.py).')
    else:
        cfg, file = None, run
    content = read_content(str(file))
    if cfg is None and (cfg := config_in(content, str(file))) is None:
        raise UserError(f'{file}: stores no config; name the config of the run and this file with --checkpoint.')
    if not isinstance(cfg.get('model'), Mapping):
        raise UserError(f'{cfg.filename}: has no model; name the config of a classifier.')
    return cfg, file, content


def build_model(cfg: Config) -> nn.Module:
    """Build the classifier of a config without reading or fetching pretrained weights; its weights are random.

    Args:
        cfg: A run's config.

    Raises:
        UserError: A module of ``custom_imports`` cannot be imported.
    """
    if custom := cfg.get('custom_imports'):
        try:
            import_modules_from_strings(**custom)
        except ImportError as error:
            raise UserError(f'{cfg.filename}: custom_imports: {error}; install it or correct PYTHONPATH.') from error
    model = deepcopy(cfg.model.to_dict() if hasattr(cfg.model, 'to_dict') else dict(cfg.model))
    _start_random(model)
    model = with_adapters(model, cfg.get('optim_wrapper'))
    if model.get('data_preprocessor') is None and cfg.get('data_preprocessor') is not None:
        model['data_preprocessor'] = deepcopy(dict(cfg.data_preprocessor))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        return MODELS.build(model)


def _start_random(cfg: object) -> None:
    """Remove what names pretrained weights, in place; MMPretrain's wrappers of other libraries fetch when built."""
    if isinstance(cfg, dict):
        for key in ('pretrained', 'checkpoint_path', 'init_cfg'):
            if cfg.get(key) and (key != 'init_cfg' or type_name(cfg[key]).startswith('Pretrained')):
                cfg.pop(key)
    values = cfg.values() if isinstance(cfg, dict) else cfg if isinstance(cfg, list | tuple) else ()
    for value in values:
        _start_random(value)


def _classes(cfg: Config, content: Mapping, model: nn.Module, file: Path) -> tuple[str, ...]:
    """Names from the checkpoint; of one without, from the config or its data set; else the numbers of the logits."""
    meta = content.get('meta') or {}
    named = (meta.get('dataset_meta') or {}).get('classes') or meta.get('CLASSES') or _configured_classes(cfg)
    count = getattr(getattr(model, 'head', None), 'num_classes', None)
    if named and (count is None or count == len(named)):
        return tuple(map(str, named))
    if named:
        print_log(
            f'{file}: {len(named)} names of classes for {count} logits; the numbers are used as names.',
            'current',
            WARNING,
        )
    if count is None:
        raise UserError(f'{file}: names no classes, and the head has no num_classes; use a classifier with a head.')
    return tuple(map(str, range(count)))


def _configured_classes(cfg: Config) -> Sequence[str] | None:
    for loader in ('train_dataloader', 'test_dataloader', 'val_dataloader'):
        for dataset in dataset_leaves((cfg.get(loader) or {}).get('dataset')):
            if classes := (dataset.get('metainfo') or {}).get('classes') or dataset.get('classes'):
                return classes
            kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
            if classes := (getattr(kind, 'METAINFO', None) or {}).get('classes'):
                return classes
    return None


def _record(directory: Path) -> RunRecord | None:
    return read_record(directory) if (directory / FILE).is_file() else None
