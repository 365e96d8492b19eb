"""MMPretrain: a config and a checkpoint for ``get_model`` and the inferencer, of stock classes where they suffice."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from ...checkpoint.saving import save_content
from ...datasets.preprocessing import evaluation_pipeline
from ...utils.names import type_name
from ..run import FinishedRun
from .as_timm import as_timm, fits_timm
from .target import Reader, Target, check_names, plain

_USAGE = """\
from mmpretrain import ImageClassificationInferencer
inferencer = ImageClassificationInferencer('config.py', pretrained='model.pth')
# inferencer('image.jpg')[0]: pred_class, pred_label, pred_score, pred_scores"""


def _write(run: FinishedRun, directory: Path) -> list[str]:
    model = plain(run.cfg.model)
    model.setdefault('data_preprocessor', plain(run.cfg.get('data_preprocessor')))
    if _is_stock(model):
        state, remarks = run.model.state_dict(), []
    elif fits_timm(run):
        net, args = as_timm(run)
        architecture = net.pretrained_cfg['architecture']
        model = {
            'type': 'TimmClassifier',
            'model_name': architecture,
            'num_classes': len(run.classes),
            **args,
            'data_preprocessor': model['data_preprocessor'],
        }
        state = net.state_dict()
        remarks = [f"The network is timm's {architecture}, by MMPretrain's TimmClassifier."]
    else:
        state = run.model.state_dict()
        remarks = ['The network is a class of ftsgd_plugin, which `config.py` imports: it must be installed.']
    _without_pretrained(model)
    pipeline = _stock_pipeline(evaluation_pipeline(run.cfg, str(run.cfg.filename)))
    cfg = {'default_scope': 'mmpretrain', 'model': model}
    if not _is_stock(model):
        cfg['custom_imports'] = plain(run.cfg.get('custom_imports') or dict(imports=['ftsgd_plugin']))
    dataset = dict(type='CustomDataset', metainfo=dict(classes=list(run.classes)), pipeline=pipeline)
    cfg['test_dataloader'] = dict(batch_size=32, dataset=dataset)
    Config(cfg).dump(directory / 'config.py')
    meta = {'dataset_meta': {'classes': list(run.classes)}}
    save_content({'meta': meta, 'state_dict': state}, directory / 'model.pth')
    return remarks


def _is_stock(cfg: object) -> bool:
    """Whether every model class that a config names comes from MMPretrain or MMEngine."""
    if isinstance(cfg, Mapping):
        kind = cfg.get('type')
        found = MODELS.get(kind) if isinstance(kind, str) else kind
        if found is not None and found.__module__.split('.')[0] not in ('mmpretrain', 'mmengine', 'mmcv', 'torch'):
            return False
        return all(map(_is_stock, cfg.values()))
    return all(map(_is_stock, cfg)) if isinstance(cfg, list | tuple) else True


def _without_pretrained(cfg: object) -> None:
    """Remove what names pretrained weights: the checkpoint has all."""
    if isinstance(cfg, dict):
        cfg.pop('pretrained', None)
        if type_name(cfg.get('init_cfg')).startswith('Pretrained'):
            cfg.pop('init_cfg')
        for value in cfg.values():
            _without_pretrained(value)


def _stock_pipeline(pipeline: Sequence) -> list:
    """The pipeline with MMPretrain's transforms in the place of this package's, and the same pixels."""
    stock = []
    for transform in map(plain, pipeline):
        kind = type_name(transform)
        if kind == 'LoadRGBImage':
            # PIL's decoder, no EXIF rotation.
            load = dict(type='LoadImageFromFile', imdecode_backend='pillow', color_type='color_ignore_orientation')
            stock += [load, dict(type='NumpyToPIL', to_rgb=True)]
        elif kind == 'PackRGB':
            stock.append(dict(type='PILToNumpy', to_bgr=True))
        elif kind == 'PackInputs':
            stock.append(dict(type='PackInputs'))
        else:
            stock.append(transform)
    return stock


def _read(run: FinishedRun, directory: Path) -> Reader:
    from mmengine.dataset import Compose
    from mmengine.registry import DefaultScope
    from mmpretrain import get_model

    model = get_model(str(directory / 'config.py'), pretrained=str(directory / 'model.pth'), device='cpu')
    check_names(run, model._dataset_meta['classes'], 'MMPretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose(model._config.test_dataloader.dataset.pipeline)

    def logits(files: Sequence[Path], inputs: torch.Tensor) -> torch.Tensor:
        images = torch.stack([pipeline({'img_path': str(file)})['inputs'] for file in files])
        return model(model.data_preprocessor({'inputs': images})['inputs'], mode='tensor')

    return logits


TARGET = Target(
    name='mmpretrain',
    takes='every run',
    fits=lambda run: True,
    write=_write,
    read=_read,
    usage=lambda run: _USAGE,
    tags=('mmpretrain',),
)
