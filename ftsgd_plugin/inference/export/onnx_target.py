"""ONNX: one file, any batch size, run by onnxruntime."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ..run import FinishedRun
from .program_target import Logits, export_program
from .target import Reader, Target, check_names

_USAGE = """\
import onnxruntime
session = onnxruntime.InferenceSession('model.onnx')
names = session.get_modelmeta().custom_metadata_map['label_names']  # of the logits, a JSON list
# (logits,) = session.run(['logits'], {'images': images}), float32 (batch, 3, height, width), prepared as stated"""
_LARGE = 1 << 30  # bytes of weights from which they are beside the file: a protobuf holds 2 GiB


def _write(run: FinishedRun, directory: Path) -> list[str]:
    program = export_program(run)
    size = sum(param.numel() * param.element_size() for param in run.model.parameters())
    onnx = torch.onnx.export(program, dynamo=True, verbose=False, input_names=['images'], output_names=['logits'])
    onnx.model.metadata_props['label_names'] = json.dumps(list(run.classes), ensure_ascii=False)
    if run.preprocessing is not None:
        onnx.model.metadata_props['preprocessing'] = json.dumps(run.preprocessing.as_meta())
    onnx.save(directory / 'model.onnx', external_data=size > _LARGE)
    return [Logits.INPUT]


def _read(run: FinishedRun, directory: Path) -> Reader:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(directory / 'model.onnx', options, providers=['CPUExecutionProvider'])
    check_names(run, json.loads(session.get_modelmeta().custom_metadata_map['label_names']), 'onnxruntime')

    def logits(files: Sequence[Path], inputs: torch.Tensor) -> torch.Tensor:
        found = [session.run(['logits'], {'images': part.numpy()})[0] for part in (inputs[:1], inputs[1:])]
        return torch.cat([torch.from_numpy(part) for part in found])

    return logits


TARGET = Target(
    name='onnx',
    takes='every classifier that torch.export can trace',
    fits=lambda run: True,
    write=_write,
    read=_read,
    usage=lambda run: _USAGE,
    packages=('onnx', 'onnxruntime', 'onnxscript'),
    extra='export',
    tags=('onnx',),
    tolerance=1e-3,  # other kernels; 30 blocks of a ResNetV2 with random weights reach 2e-4
)
