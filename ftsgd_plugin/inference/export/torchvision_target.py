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

    backbone, linear = run.model.backbone, last_linear(run)
    if type_name(run.cfg.model.backbone) == 'ResNet':
        name, args, state = f'resnet{backbone.depth}', {}, backbone.state_dict()
    else:
        name, args, state = backbone.model_name, plain(backbone.arguments), backbone.net.state_dict()
    model = torchvision.models.get_model(name, weights=None, num_classes=len(run.classes), **args)
    missing, unexpected = model.load_state_dict(state, strict=False)
    places = [place for place, module in model.named_modules() if f'{place}.weight' in missing]
    names = {f'{place}.{kind}' for place in places for kind in ('weight', 'bias')}
    if (
        unexpected
        or len(places) != 1
        or set(missing) != names
        or not isinstance(model.get_submodule(places[0]), nn.Linear)
    ):
        differing = next(iter([*unexpected, *missing]), 'no classifier')
        raise UserError(f'{run.cfg.filename}: torchvision builds {name} differently ({differing}); export to onnx.')
    with torch.no_grad():
        model.get_submodule(places[0]).weight.copy_(linear.weight)
        model.get_submodule(places[0]).bias.copy_(linear.bias)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, directory / 'model.safetensors')
    content = {'architecture': name, 'args': args, 'num_classes': len(run.classes), 'label_names': list(run.classes)}
    if run.preprocessing is not None:
        content['preprocessing'] = run.preprocessing.as_meta()
    (directory / 'config.json').write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    return [Logits.INPUT]


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
