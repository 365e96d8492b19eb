"""torchvision: a state dict for ``torchvision.models.get_model(NAME, num_classes=N)``."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ...utils.errors import UserError
from ...utils.names import type_name
from ..run import FinishedRun
from .as_timm import plain_mmpretrain_resnet
from .program_target import Logits
from .target import Reader, Target, last_linear, plain

_USAGE = """\
import json, safetensors.torch, torchvision
config = json.load(open('config.json'))
model = torchvision.models.get_model(config['architecture'], num_classes=config['num_classes'], **config['args']).eval()
model.load_state_dict(safetensors.torch.load_file('model.safetensors'))
# logits = model(images), float32 (batch, 3, height, width), prepared as stated above"""


def _fits(run: FinishedRun) -> bool:
    if last_linear(run) is None:
        return False
    kind = type_name(run.cfg.model.get('backbone'))
    return kind == 'TorchvisionBackbone' or (kind == 'ResNet' and plain_mmpretrain_resnet(run.model.backbone))


def _write(run: FinishedRun, directory: Path) -> list[str]:
    import torchvision

    cfg, linear = run.cfg.model.backbone, last_linear(run)
    if type_name(cfg) == 'ResNet':
        name, args, state = f'resnet{run.model.backbone.depth}', {}, run.model.backbone.state_dict()
    else:
        ours = (
            'type',
            '_scope_',
            'model_name',
            'pretrained',
            'weights',
            'channels_last',
            'grad_checkpointing',
            'compile',
        )
        args = {key: plain(value) for key, value in cfg.items() if key not in ours}
        name, state = cfg.model_name, run.model.backbone.net.state_dict()
    model = torchvision.models.get_model(name, weights=None, num_classes=len(run.classes), **args)
    missing, unexpected = model.load_state_dict(state, strict=False)
    places = [place for place, module in model.named_modules() if f'{place}.weight' in missing]
    if unexpected or len(places) != 1 or set(missing) != {f'{places[0]}.weight', f'{places[0]}.bias'}:
        differing = next(iter([*unexpected, *missing]), 'no classifier')
        raise UserError(f'{run.cfg.filename}: torchvision builds {name} differently ({differing}); export to onnx.')
    _fill(model.get_submodule(places[0]), linear)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, directory / 'model.safetensors')
    content = {'architecture': name, 'args': args, 'num_classes': len(run.classes), 'label_names': list(run.classes)}
    if run.preprocessing is not None:
        content['preprocessing'] = run.preprocessing.as_meta()
    (directory / 'config.json').write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    return [Logits.INPUT]


def _fill(classifier: nn.Module, linear: nn.Linear) -> None:
    with torch.no_grad():
        classifier.weight.copy_(linear.weight.reshape(classifier.weight.shape))
        classifier.bias.copy_(linear.bias)


def _read(run: FinishedRun, directory: Path) -> Reader:
    import torchvision

    config = json.loads((directory / 'config.json').read_text())
    model = torchvision.models.get_model(config['architecture'], num_classes=config['num_classes'], **config['args'])
    model.load_state_dict(load_file(directory / 'model.safetensors'))
    model.eval()
    return lambda files, inputs: model(inputs)


TARGET = Target(
    name='torchvision',
    takes='TorchvisionBackbone and plain ResNets of MMPretrain, with a linear head',
    fits=_fits,
    write=_write,
    read=_read,
    usage=lambda run: _USAGE,
    packages=('torchvision',),
    tags=('torchvision',),
)
