"""What a run needs and a machine lacks: its data or its pretrained weights, with the command that gets them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ..models.onnx_weights import WEIGHTS
from ..models.pretrained import HubError
from ..paper.names import DATASETS, REAL_DATASETS
from ..runner.data_check import check_data
from ..utils.errors import UserError
from .two_iterations import LOADERS, Images, choose_images


@dataclass(frozen=True)
class Absent:
    """Data or weights that are not on this machine.

    Attributes:
        kind: ``'data'`` or ``'weights'``.
        name: The data set or the model, as in the config's name.
        line: What is missing, and the command that gets or checks it.
    """

    kind: str
    name: str
    line: str


def find_images(cfg: Config, dataset: str) -> Images | Absent:
    """The images for a trial, or what is missing of the data.

    Args:
        cfg: Full config.
        dataset: Name of its data set.
    """
    try:
        check_data(cfg, LOADERS)
        return choose_images(cfg)
    except UserError as error:
        root = cfg.train_dataloader.dataset.get('data_root', '')
        command = _PREPARE.get(dataset, '').format(dataset=dataset, root=root)
        line = str(error).removesuffix('.')
        return Absent('data', dataset, f'{line}; then: {command}' if command else line)


_PREPARE = {
    **dict.fromkeys(DATASETS, 'python tools/prepare_data.py {dataset} {root}'),
    **dict.fromkeys(REAL_DATASETS, 'python tools/prepare_data.py elpv {root}'),
    'digits': 'python tools/make_digits.py {root}',
}


def find_weights(cfg: Config, model: str) -> Absent | None:
    """What is missing of the pretrained weights; ``None`` if they are here or their hub answers.

    Args:
        cfg: Full config.
        model: Name of its model.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    settings = cfg.model.backbone
    pretrained = settings.get('pretrained', False)
    if isinstance(pretrained, str) and not Path(pretrained).expanduser().exists():
        return Absent('weights', model, f'{pretrained}: no such file; correct model.backbone.pretrained{_OR_RANDOM}')
    if pretrained is not True:
        return None
    try:
        with torch.device('meta'):  # the file of a network of GiB without its memory
            on_hub = MODELS.build(settings).hub_file()
        if on_hub is not None:
            on_hub.find()
    except HubError:
        command = on_hub.command
        if model in WEIGHTS:
            command += f', or python tools/get_weights.py {model} and its file in model.backbone.pretrained'
        line = f'{on_hub.name}: not in the cache, and its hub cannot be reached; where it can: {command}{_OR_RANDOM}'
        return Absent('weights', model, line)
    except UserError as error:
        return Absent('weights', model, str(error))
    return None


_OR_RANDOM = '; or --random-weights'
