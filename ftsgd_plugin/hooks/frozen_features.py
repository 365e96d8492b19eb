"""Compute the features of the validation data once for as long as everything below the head stays as it is."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from ..datasets.image_cache import has_no_randomness
from ..datasets.preprocessing import dataset_leaves
from ..layers import unwrap
from ..utils.format import format_bytes, parse_bytes
from ..utils.patching import replaced

_HEAD = 'head.'  # beginning of the names of what a classifier's backbone and neck do not have


@HOOKS.register_module()
class FrozenFeaturesHook(Hook):
    """Reuse the features of validation images while a training changes nothing but the head.

    Linear probes and the like evaluate the same backbone on the same images after every epoch. ``tools/train.py`` adds
    this hook to every run. It acts where the outcome is the same bit for bit: the model is MMPretrain's
    ``ImageClassifier``, no parameter outside its head is trained, their bytes and those of the buffers are those of the
    pass before (compared by SHA-256), no module outside the head has a forward hook, the images of a batch are the
    same, and their pipeline has no randomness. The images are still loaded.

    Args:
        limit (int | str): The most memory for features per process, on the host; ``0`` turns it off. Defaults to
            ``'1GiB'``: 350,000 images of a ViT-B.
    """

    priority = 'VERY_LOW'

    def __init__(self, limit: int | str = '1GiB') -> None:
        self.limit = parse_bytes(limit) if isinstance(limit, str) else limit
        self._training = self._said = False
        self._digest = ''
        self._features: dict[int, tuple[int, Any]] = {}  # number of the batch -> hash of its images, features
        self._size = 0
        self._patch: replaced | None = None

    def before_train(self, runner: Runner) -> None:
        """Outside a training nothing is evaluated twice."""
        self._training = True

    def after_train(self, runner: Runner) -> None:
        """Free the features."""
        self._training = False
        self._forget()

    def before_val_epoch(self, runner: Runner) -> None:
        """Reuse features in this pass, if they can be."""
        model = unwrap(runner.model)
        if not (self._training and self.limit and _is_plain(model) and _is_frozen(model) and _is_repeatable(runner)):
            self._forget()
            return
        extract, self._reused, self._batch, self._is_checked = model.extract_feat, 0, None, False

        def extract_once(inputs: torch.Tensor, stage: str = 'neck') -> Any:
            if stage != 'neck' or self._batch is None:
                return extract(inputs, stage=stage)
            if not self._is_checked:  # here, not before: another hook may exchange the weights for this pass (EMA)
                self._is_checked = True
                if (digest := _digest(model)) != self._digest:
                    self._forget()
                    self._digest = digest
            return self._look_up(inputs, extract)

        self._patch = replaced(model, 'extract_feat', extract_once)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | Sequence | None = None) -> None:
        """Note which images come next."""
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        paths = tuple(sample.get('img_path') for sample in samples or ())
        self._batch = (batch_idx, hash(paths)) if paths and None not in paths else None

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Give the model its method back."""
        if self._patch is None:
            return
        self._patch.undo()
        self._patch = None
        if self._reused and not self._said:
            self._said = True
            runner.logger.info(
                f'validation: nothing below the head is trained, so the features of {self._reused:,} images '
                f'({format_bytes(self._size)}) are reused'
            )

    def _look_up(self, inputs: torch.Tensor, extract) -> Any:
        number, images = self._batch
        stored = self._features.get(number)
        if stored is not None and stored[0] == images:
            self._reused += len(inputs)
            return _map(stored[1], lambda tensor: tensor.to(inputs.device))
        features = extract(inputs)
        size = sum(tensor.nbytes for tensor in _tensors(features))
        if stored is None and self._size + size <= self.limit:
            self._features[number] = images, _map(features, lambda tensor: tensor.detach().to('cpu', copy=True))
            self._size += size
        return features

    def _forget(self) -> None:
        self._features.clear()
        self._size, self._digest = 0, ''


def _is_plain(model: nn.Module) -> bool:
    """Whether a classifier's prediction is that of its head for what ``extract_feat`` returns."""
    from mmpretrain.models import ImageClassifier

    methods = ('forward', 'predict', 'extract_feat')
    return isinstance(model, ImageClassifier) and all(
        getattr(type(model), name) is getattr(ImageClassifier, name) and name not in vars(model) for name in methods
    )


def _is_frozen(model: nn.Module) -> bool:
    """Whether nothing outside the head is trained, sharded or watched."""
    watched = (
        module._forward_hooks or module._forward_pre_hooks
        for name, module in model.named_modules()
        if name and not f'{name}.'.startswith(_HEAD)
    )
    return model.with_head and not any(watched) and not any(tensor.requires_grad for _, tensor in _outside(model))


def _is_repeatable(runner: Runner) -> bool:
    """Whether every pass has the same images in the same order."""
    sampler = runner.val_dataloader.sampler
    if not isinstance(sampler, DefaultSampler) or sampler.shuffle:
        return False
    loader = (runner.cfg.get('val_dataloader') if runner.cfg else None) or {}
    leaves = list(dataset_leaves(loader.get('dataset')))
    return bool(leaves) and all(has_no_randomness(one.get('pipeline') or ()) for one in leaves)


def _outside(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for tensors in (model.named_parameters(), model.named_buffers()):
        yield from ((name, tensor) for name, tensor in tensors if not name.startswith(_HEAD))


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in _outside(model):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(features: Any) -> Iterator[torch.Tensor]:
    for one in features if isinstance(features, list | tuple) else (features,):
        if isinstance(one, list | tuple):
            yield from _tensors(one)
        else:
            yield one


def _map(features: Any, function) -> Any:
    if isinstance(features, list | tuple):
        return type(features)(_map(one, function) for one in features)
    return function(features)
