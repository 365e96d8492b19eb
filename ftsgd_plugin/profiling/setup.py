"""A config's model and data as they are at the first step of training, without a run."""

from copy import deepcopy

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from mmpretrain.registry import MODELS
from torch.utils.data import DataLoader

from ..checkpoint.compatibility import check_pretrained, misfits, of_backbone, summarise
from ..checkpoint.io import read_weights
from ..layers import in_backbone
from ..runner.build import without_init_log
from ..runner.sampling import make_reproducible
from ..utils.errors import UserError, one_line
from ..utils.names import type_name


def pretrained_model(cfg: Config, device: str = 'cpu') -> BaseModel:
    """Build the model of a config with its pretrained backbone and a fresh head.

    The backbone's weights are those that training would start from: its own (``pretrained``, ``init_cfg``), or those of
    ``load_from``. The head is initialised at random from ``randomness.seed`` (0 if there is none).

    Args:
        cfg: A config with a ``model``.
        device: Device of the model.

    Raises:
        UserError: Weights are missing or do not fit, or there is no such device.
    """
    if 'model' not in cfg:
        raise UserError(f'{cfg.filename}: has no model; name a config with one.')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    set_random_seed(seed_of(cfg))
    model_cfg = deepcopy(cfg.model)  # building adds keys
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model_cfg)
    check_pretrained(model)
    with without_init_log(model):
        model.init_weights()
    if cfg.get('load_from'):
        _load_backbone(model, cfg.load_from)
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error, first=True)
        raise UserError(f'device={device!r}: cannot be used ({reason}); name another, e.g. cpu.') from error


def training_loader(cfg: Config) -> DataLoader:
    """The data loader of the first epoch of training in one process: same images, same order, same augmentation.

    Args:
        cfg: A config with a ``train_dataloader``.

    Raises:
        UserError: There is none, or its order cannot be set.
    """
    if cfg.get('train_dataloader') is None:
        raise UserError(f'{cfg.filename}: has no train_dataloader; name a config with one.')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    loader_cfg = deepcopy(cfg.train_dataloader)
    loader_cfg.setdefault('collate_fn', dict(type='default_collate'))
    loader_cfg['persistent_workers'] = False
    loader_cfg['pin_memory'] = torch.cuda.is_available()
    loader = Runner.build_dataloader(loader_cfg, seed=seed_of(cfg))
    make_reproducible(loader, 1).go_to(seed_of(cfg), 0, 0)
    return loader


def seed_of(cfg: Config) -> int:
    """``randomness.seed`` of a config; 0 if there is none."""
    seed = cfg.get('randomness', {}).get('seed')
    return 0 if seed is None else seed


def autocast_of(cfg: Config) -> str | None:
    """The type of mixed precision of a config's training, such as ``'bfloat16'``; ``None`` for float32."""
    wrapper = cfg.get('optim_wrapper') or {}
    return wrapper.get('dtype') or ('float16' if type_name(wrapper) == 'AmpOptimWrapper' else None)


def _load_backbone(model: BaseModel, path: str) -> None:
    weights = {name: value for name, value in read_weights(path).items() if in_backbone(name)}
    if found := of_backbone(misfits(model, weights)):
        raise UserError(f'{path}: does not fit the backbone: {summarise(found)}; correct load_from or the model.')
    model.load_state_dict(weights, strict=False)


def quieten() -> None:
    """Let MMEngine log warnings and errors only; functions that build many models and optimizers call it."""
    MMLogger.get_instance('ftsgd_plugin', log_level='WARNING')
