"""Write the config of a fine-tuning: our parts for method and runtime, the keys of model and data set in full."""

from collections.abc import Mapping, Sequence

from ..paper.names import method_label
from ..utils.metrics import ID_METRIC, better_rule
from .code_text import Name, assignment
from .data import Data
from .model import Model

_HEADER = '''"""{model} on {data} by {method}, written by tools/finetune.py.

    python tools/train.py {path}

{notes}
"""

_base_ = [
    __import__('ftsgd_plugin').config_path(part)
    for part in {parts}
]
'''


def config_text(
    model: Model,
    data: Data,
    method: str,
    lr: float,
    epochs: int,
    batch_size: int = 32,
    workers: int = 4,
    seed: int = 0,
    metric: str = ID_METRIC,
    path: str = 'config.py',
    notes: Sequence[str] = (),
) -> str:
    """The text of a config that trains alone, from any directory.

    Args:
        model: The model.
        data: The data.
        method: A method part.
        lr: Learning rate.
        epochs: Epochs.
        batch_size: Images per step.
        workers: Processes that load images.
        seed: ``randomness.seed``.
        metric: What ``save_best`` maximises.
        path: Where the file will be, for the command in its header.
        notes: Lines of its header.
    """
    parts = [f'_base_/methods/{method}.py', '_base_/runtime.py']
    if model.part:
        parts.insert(0, f'_base_/models/{model.part}.py')
    header = _HEADER.format(
        model=model.name,
        data=_in_docstring(data.name),
        method=method_label(method),
        path=_in_docstring(path),
        notes=_in_docstring('\n'.join(notes)),
        parts=tuple(parts),
    )
    sections = [
        {'run': dict(model=model.name, method=method, dataset=data.name)},
        {'model': _model(model, len(data.layout.classes))},
        {'optim_wrapper': dict(optimizer=dict(lr=lr))},
        {
            'images': data.options(),
            'train_pipeline': train_pipeline(model),
            'test_pipeline': test_pipeline(model, data.meta_keys),
        },
        _loaders(data, batch_size, workers),
        _evaluation(data, epochs, metric),
        {'randomness': dict(seed=seed)},
    ]
    body = ['\n' + ''.join(assignment(name, value) for name, value in section.items()) for section in sections]
    return header + ''.join(body)


def _in_docstring(text: str) -> str:
    """Text of the user inside triple quotes."""
    return text.replace('\\', '\\\\').replace('"', "'")


def train_pipeline(model: Model) -> list[dict]:
    """The benchmarks' augmentation: a random resized crop and a flip."""
    return [
        dict(type='LoadRGBImage'),
        dict(type='torchvision/RandomResizedCrop', size=model.image_size, interpolation=model.interpolation),
        dict(type='torchvision/RandomHorizontalFlip', p=0.5),
        dict(type='PackRGB'),
        dict(type='PackInputs'),
    ]


def test_pipeline(model: Model, meta_keys: Sequence[str]) -> list[dict]:
    """The evaluation of the model's library: the shorter side to ``image_size / crop_pct``, the centre cropped."""
    size = int(model.image_size / model.crop_pct)
    return [
        dict(type='LoadRGBImage'),
        dict(type='torchvision/Resize', size=size, interpolation=model.interpolation),
        dict(type='torchvision/CenterCrop', size=model.image_size),
        dict(type='PackRGB'),
        dict(type='PackInputs', meta_keys=tuple(meta_keys)),
    ]


test_pipeline.__test__ = False  # pytest would collect it


def _model(model: Model, classes: int) -> dict:
    if model.part:
        changes = {'backbone': dict(model.backbone)} if model.backbone else {}
        return {**changes, 'head': dict(num_classes=classes)}
    head = dict(
        type='LinearClsHead',
        num_classes=classes,
        in_channels=model.num_features,
        init_cfg=None,  # PyTorch's default, as in the paper's code
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    )
    neck = {'neck': dict(model.neck)} if model.neck else {}
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=list(model.mean), std=list(model.std), to_rgb=True),
        backbone=dict(model.backbone),
        **neck,
        head=head,
    )


def _loaders(data: Data, batch_size: int, workers: int) -> dict:
    def images(split: str, pipeline: str, more: str = '') -> Name:
        return Name(f'dict(images, split={split!r}, pipeline={pipeline}{more})')

    def evaluated(splits: Sequence[str]) -> Mapping:
        return dict(
            batch_size=batch_size,
            num_workers=workers,
            dataset=dict(
                type='ConcatDataset',
                datasets=[images(split, 'test_pipeline', ', test_mode=True') for split in splits],
            ),
            sampler=dict(type='DefaultSampler', shuffle=False),
        )

    validated, tested = data.validated, data.tested
    return {
        'train_dataloader': dict(
            batch_size=batch_size,  # per process
            num_workers=workers,
            dataset=images(data.layout.train, 'train_pipeline'),
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        'val_dataloader': evaluated(validated),
        'test_dataloader': Name('val_dataloader') if tested == validated else evaluated(tested),
    }


def _evaluation(data: Data, epochs: int, metric: str) -> dict:
    evaluator = dict(type='GroupAccuracy', id=data.layout.id, ood=data.layout.ood)
    name = metric.partition('/')[2]
    if metric != ID_METRIC:
        evaluator['items'] = (name,)
    settings = {
        'val_evaluator': evaluator,
        'test_evaluator': Name('val_evaluator'),
        'train_cfg': dict(type='ResumableEpochTrainLoop', max_epochs=epochs, val_interval=1),
        'val_cfg': {},
        'test_cfg': {},
    }
    if metric != ID_METRIC:
        settings['default_hooks'] = dict(checkpoint=dict(save_best=metric, rule=better_rule(metric)))
    return settings
