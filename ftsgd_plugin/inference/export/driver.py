"""Export a run: refuse what does not fit, write, load back, compare, and only then give the export its name."""

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...utils.errors import UserError, one_line
from ...utils.files import atomic_directory, write_text
from ..images import find_images
from ..run import FinishedRun
from .card import model_card
from .target import IMAGES, Target, logits_of_run, write_images

# Target -> its module.
_MODULES = {
    'timm': 'timm_target',
    'open_clip': 'open_clip_target',
    'torchvision': 'torchvision_target',
    'mmpretrain': 'mmpretrain_target',
    'transformers': 'transformers_target',
    'onnx': 'onnx_target',
    'torch-export': 'program_target',
}


def target_names() -> list[str]:
    """The targets of :func:`export_run`."""
    return list(_MODULES)


def _target(name: str) -> Target:
    if name not in _MODULES:
        raise UserError(f'--to {name}: not a target; choose {", ".join(_MODULES)}.')
    return importlib.import_module(f'.{_MODULES[name]}', __package__).TARGET


def export_run(
    run: FinishedRun,
    to: str,
    out: str | os.PathLike | None = None,
    *,
    images: Sequence[str | os.PathLike] = (),
    report: Callable[[str], None] = print,
) -> Path:
    """Write the weights of a run for another library, once that library has given the run's logits on 32 images.

    Args:
        run: From :func:`ftsgd_plugin.inference.run.load_run`, on the CPU.
        to: One of :func:`target_names`.
        out: A directory that does not exist. Default: ``export-TARGET`` beside the checkpoint.
        images: Images, directories or CSV files to compare with, at most 32 of them. Default: 32 made-up images.
        report: Called with each line of the report.

    Returns:
        Path: The directory, with weights, config and ``README.md``, the model card.

    Raises:
        UserError: The network does not fit the target, a package is missing, or the export gives other logits; nothing
            is left behind.

    Examples:
        >>> export_run(load_run('work_dirs/mine', device='cpu'), 'timm', 'my-model')
    """
    target = _target(to)
    _check(run, target)
    for module in run.model.modules():
        module._compiled_call_impl = None  # of the option compile: what is exported is the network itself
    directory = Path(out) if out is not None else run.checkpoint.parent / f'export-{to}'
    with atomic_directory(directory) as temporary, tempfile.TemporaryDirectory() as scratch:
        if images:
            files = [Path(image.file) for image in find_images(images, run.classes)][:IMAGES]
        else:
            files = write_images(run, Path(scratch))
        inputs, expected = logits_of_run(run, files)
        remarks = target.write(run, temporary)
        difference, kind = _compare(run, target, temporary, files, inputs, expected)
        checked = f'{len(files)} {kind}'
        write_text(temporary / 'README.md', model_card(run, target, remarks, difference, checked))
        names = ', '.join(sorted(path.name for path in temporary.iterdir() if not path.name.startswith('.')))
    report(
        f'{to}: {checked} give the logits of the run; largest difference {difference:.1e} '
        f'(tolerance {target.tolerance:g} of the largest logit)'
    )
    report(f'written: {directory} ({names})')
    return directory


def _check(run: FinishedRun, target: Target) -> None:
    """Refuse before any work."""
    if not target.fits(run):
        fitting = [name for name in _MODULES if _target(name).fits(run)]
        raise UserError(
            f'{run.cfg.filename}: its network does not fit --to {target.name}, which takes {target.takes}; fitting: '
            f'{", ".join(fitting)}.'
        )
    missing = [name for name in target.packages if importlib.util.find_spec(name) is None]
    if missing:
        extra = f"'ftsgd_plugin[{target.extra}]'" if target.extra else ' '.join(missing)
        raise UserError(f'--to {target.name} needs {", ".join(missing)}; run: pip install {extra}')


def _compare(
    run: FinishedRun,
    target: Target,
    directory: Path,
    files: Sequence[Path],
    inputs: torch.Tensor,
    expected: torch.Tensor,
) -> tuple[float, str]:
    """The largest difference of a logit after loading back, and what the comparison started from."""
    used = _Watched(files)
    try:
        with torch.no_grad():
            found = target.read(run, directory)(used, inputs)
    except UserError:
        raise
    except Exception as error:
        reason = one_line(error, first=True, limit=200)
        raise UserError(
            f'--to {target.name}: the export cannot be loaded back ({reason}); nothing is written. Report this network.'
        ) from error
    difference = float((found - expected).abs().max()) if found.shape == expected.shape else float('inf')
    largest = max(1.0, float(expected.abs().max()))
    if not difference <= target.tolerance * largest:
        raise UserError(
            f'--to {target.name}: the export gives other logits than the run (largest difference {difference:.1e}, the '
            f'largest logit is {largest:.1f}); nothing is written. Report this network.'
        )
    return difference, 'images' if used.read else 'normalised images'


class _Watched(list):
    """A list that notes whether it was read: an export without a preprocessing of its own starts from tensors."""

    read = False

    def __iter__(self):
        self.read = True
        return super().__iter__()
