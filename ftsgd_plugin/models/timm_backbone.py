"""timm's networks with pooled features."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmpretrain.registry import MODELS

from ..utils.errors import UserError, one_line
from .base import PooledBackbone
from .pretrained import HubFile, fill, fill_from_npz, local_file, read_tensors, report_filled

_PATCH = 'patch_embed.proj.weight'


@MODELS.register_module()
class TimmPooledBackbone(PooledBackbone):
    """A timm model without its classifier: class token after the final norm, or pooled and normed features.

    Args:
        model_name (str): timm's name, with its tag if weights are loaded (``'resnetv2_50x1_bit.goog_in21k'``; the name
            without a tag may select other weights).
        pretrained (bool | str): ``False`` (default), ``True`` or a file: safetensors, ``.pth``, or Google's ``.npz``.
        channels_last, grad_checkpointing, compile: See :class:`PooledBackbone`.
        **kwargs: Arguments of ``timm.create_model``, such as ``img_size=384`` (position embeddings are interpolated by
            timm when weights are loaded).

    Raises:
        UserError: timm has no such model. When weights are loaded: the file is missing, truncated or of another model.

    Examples:
        >>> backbone = dict(type='TimmPooledBackbone', model_name='vit_base_patch16_224.augreg_in21k', pretrained=True)
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool | str = False,
        channels_last: bool = False,
        grad_checkpointing: bool = False,
        compile: bool | dict = False,
        **kwargs,
    ) -> None:
        import timm  # more than 200 modules

        if not timm.is_model(model_name):
            close = (
                ', '.join(timm.list_models(f'*{model_name.split(".")[0].split("_")[0]}*')[:5]) or 'timm.list_models()'
            )
            raise UserError(f'model_name={model_name!r}: timm {timm.__version__} has no such model; see {close}.')
        net = timm.create_model(model_name, pretrained=False, num_classes=0, **kwargs)
        super().__init__(net, pretrained, channels_last, grad_checkpointing, compile)
        self.model_name = model_name

    def load_pretrained(self) -> None:
        """Fill every tensor from the hub's file or the local one."""
        hub = self.net.pretrained_cfg.get('hf_hub_id')
        source = self.net.pretrained_cfg.get('url') or f'model.safetensors of {hub}'
        expected = f'the weights of timm {self.model_name} ({source})'
        on_hub = self.hub_file()
        path = on_hub.fetch() if on_hub else local_file(self.pretrained, expected)
        if path.suffix == '.npz':
            if not hasattr(self.net, 'load_pretrained'):
                raise UserError(f'{path}: timm has no .npz loader for {self.model_name}; expected {expected}.')
            fill_from_npz(self.net, self._load_npz, path, expected)
        else:
            self.fill_from(read_tensors(path, expected), path, expected)
        report_filled(self.net, f'timm {self.model_name}', path)

    def hub_file(self) -> HubFile | None:
        """timm's file on the Hugging Face hub."""
        if self.pretrained is not True:
            return None
        hub = self.net.pretrained_cfg.get('hf_hub_id')
        if not hub:
            raise UserError(f'pretrained=True: timm has no weights for {self.model_name}; add a tag or name a file.')
        file = 'model.safetensors'
        return HubFile(f'timm {self.model_name}', f'{file} of {hub}', self._download, f'hf download {hub} {file}')

    def fill_from(self, tensors: dict[str, torch.Tensor], path: Path, expected: str = '') -> None:
        """Fill every tensor from those of a file, with timm's conversion of published checkpoints.

        Args:
            tensors: Name -> tensor, as published; a classifier is left out.
            path: Where they come from, for messages.
            expected: Description of the right file. Default: timm's name of the model.

        Raises:
            UserError: A tensor is missing, left over or has another shape; nothing was filled.
        """
        expected = expected or f'the weights of timm {self.model_name}'
        fill(self.net, self._convert(tensors, path, expected), path, expected)

    def _download(self, local_only: bool) -> str:
        from huggingface_hub import hf_hub_download

        hub = self.net.pretrained_cfg['hf_hub_id']
        return hf_hub_download(hub, 'model.safetensors', local_files_only=local_only)

    def _load_npz(self, path: str) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = {name.split('/')[-1] + '@' + name.split('/')[-2]: array.shape for name, array in _headers(arrays)}
        kernel = shapes.get('kernel@embedding')  # (height, width, in, out)
        self._check_geometry(
            None if kernel is None else (kernel[3], kernel[2], *kernel[:2]), shapes.get('pos_embedding@posembed_input')
        )
        self.net.load_pretrained(path)

    def _convert(self, tensors: dict[str, torch.Tensor], path: Path, expected: str) -> dict[str, torch.Tensor]:
        """Apply timm's conversion of published checkpoints and remove the published classifier."""
        convert = getattr(sys.modules[type(self.net).__module__], 'checkpoint_filter_fn', None)
        try:
            self._check_geometry(*(getattr(tensors.get(key), 'shape', None) for key in (_PATCH, 'pos_embed')))
            tensors = tensors if convert is None else convert(tensors, self.net)
        except Exception as error:
            reason = one_line(error, first=True)
            raise UserError(f'{path}: does not fit: {reason}; expected {expected}.') from error
        classifiers = self.net.pretrained_cfg.get('classifier') or ()
        classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
        dropped = {f'{name}.{kind}' for name in classifiers for kind in ('weight', 'bias')}
        return {key: value for key, value in tensors.items() if key not in dropped}

    def _check_geometry(self, patch: Sequence[int] | None, position: Sequence[int] | None) -> None:
        """Refuse what timm would resample silently: another patch size, or positions of another grid than the model's.

        Args:
            patch: Shape of the file's patch convolution (out, in, height, width), if it has one.
            position: Shape of the file's position embedding (1, tokens, width), if it has one.
        """
        own = dict(self.net.named_parameters())
        if patch is not None and _PATCH in own and len(patch) == 4 and tuple(patch) != tuple(own[_PATCH].shape):
            raise UserError(f'{_PATCH} is {tuple(patch)} instead of {tuple(own[_PATCH].shape)}')
        if position is None or 'pos_embed' not in own:
            return
        native = self.net.pretrained_cfg['input_size'][-1] // own[_PATCH].shape[-1]
        tokens, width = own['pos_embed'].shape[1:]
        fitting = {tokens, native**2 + self.net.num_prefix_tokens}
        if len(position) != 3 or position[1] not in fitting or position[2] != width:
            raise UserError(f'pos_embed is {tuple(position)} instead of (1, {tokens}, {width})')


def _headers(arrays: np.lib.npyio.NpzFile):
    """Yield ``(name, array)`` of the arrays whose shape gives the geometry; the others are not read."""
    for name in arrays.files:
        if name.endswith(('/embedding/kernel', '/pos_embedding')) or name == 'embedding/kernel':
            yield f'/{name}', arrays[name]
