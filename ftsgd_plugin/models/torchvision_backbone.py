"""torchvision's classification networks with pooled features."""

import difflib
import importlib
import os
import re
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmpretrain.registry import MODELS
from torch import nn

from ..utils.errors import UserError, one_line
from .base import PooledBackbone
from .pretrained import HubFile, fill, local_file, read_tensors, report_filled

_CLASSIFIERS = ('fc', 'heads', 'head', 'classifier')  # by family, in this order
_AUXILIARY = ('aux1.', 'aux2.', 'AuxLogits.')
# Names in the files of DenseNet, which are older than the network: 'denselayer1.norm.1.weight' is its 'norm1.weight'.
_DENSE = re.compile(r'(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)')


@MODELS.register_module()
class TorchvisionBackbone(PooledBackbone):
    """A torchvision network without its last classifying layer: what that layer would get.

    Args:
        model_name (str): torchvision's name, such as ``'resnet50'`` or ``'vit_b_16'``.
        pretrained (bool | str): ``False`` (default), ``True`` or a file: ``.pth`` as torchvision publishes it, or
            safetensors.
        weights (str): torchvision's name of the weights, such as ``'IMAGENET1K_V2'``; also the image size of a ViT
            comes from it. Defaults to ``'DEFAULT'``, torchvision's best.
        channels_last, compile: See :class:`PooledBackbone`.
        grad_checkpointing (bool): torchvision has none; ``True`` is refused. Defaults to False.
        **kwargs: Arguments of torchvision's builder, such as ``image_size=384`` of a ViT (position embeddings are
            interpolated by torchvision when weights are loaded) or ``stochastic_depth_prob``.

    Raises:
        UserError: torchvision has no such network or weights, or an argument that it does not take. When weights are
            loaded: the file is missing, truncated or of another model.

    Examples:
        >>> backbone = dict(type='TorchvisionBackbone', model_name='resnet50', pretrained=True)
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool | str = False,
        weights: str = 'DEFAULT',
        channels_last: bool = False,
        grad_checkpointing: bool = False,
        compile: bool | dict = False,
        **kwargs,
    ) -> None:
        from torchvision import models

        known = models.list_models(module=models)
        if model_name not in known:
            raise UserError(f'model_name={model_name!r}: torchvision has no such network{_close(model_name, known)}.')
        options = models.get_model_weights(model_name)
        if weights not in options.__members__:
            names = ', '.join(options.__members__)
            raise UserError(f'weights={weights!r}: torchvision has no such weights of {model_name}, only {names}.')
        if grad_checkpointing:
            raise UserError(f'grad_checkpointing=True: torchvision cannot recompute activations of {model_name}.')
        arguments = {**_arguments(model_name, options[weights]), **kwargs}
        net = _build(model_name, arguments)
        path, layer = _classifier(net)
        features = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
        net.set_submodule(path, nn.Identity())
        super().__init__(net, pretrained, channels_last, compile=compile)
        self.model_name, self.weights = model_name, options[weights].name
        self.arguments = arguments  # of torchvision's builder
        self.num_features = features  # known without a traced pass
        self._classifier_path = path

    def load_pretrained(self) -> None:
        """Fill every tensor from torchvision's file or the local one."""
        published = self._published()
        name, expected = published.name, published.expected
        path = published.fetch() if self.pretrained is True else local_file(self.pretrained, expected)
        left_out = (f'{self._classifier_path}.', *_AUXILIARY)
        tensors = {
            _DENSE.sub(r'\1\2', key): value
            for key, value in read_tensors(path, expected).items()
            if not key.startswith(left_out)
        }
        self._interpolate(tensors)
        fill(self.net, tensors, path, expected)
        report_filled(self.net, name, path)

    def hub_file(self) -> HubFile | None:
        """torchvision's file at PyTorch."""
        return self._published() if self.pretrained is True else None

    def _published(self) -> HubFile:
        from torchvision import models

        url = models.get_model_weights(self.model_name)[self.weights].url
        name = f'torchvision {self.model_name} {self.weights}'
        expected = f'the weights of {name} ({url})'
        return HubFile(name, expected, lambda local_only: _download(url, local_only), f'curl -LO {url}', url)

    def _interpolate(self, tensors: dict[str, torch.Tensor]) -> None:
        """Fit a ViT's position embeddings to this network's grid, in place, as torchvision does."""
        position = tensors.get('encoder.pos_embedding')
        own = dict(self.net.named_parameters()).get('encoder.pos_embedding')
        if position is None or own is None or position.shape == own.shape or position.ndim != 3:
            return
        side = round((position.shape[1] - 1) ** 0.5)
        if side * side + 1 == position.shape[1] and position.shape[2] == own.shape[2]:
            from torchvision.models.vision_transformer import interpolate_embeddings

            tensors.update(interpolate_embeddings(self.net.image_size, self.net.patch_size, tensors))


def _close(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f'; did you mean {" or ".join(close)}?' if close else ' (torchvision.models.list_models())'


def _arguments(name: str, weights) -> dict:
    """Arguments that torchvision's builders set only where they load the weights themselves."""
    if name in ('googlenet', 'inception_v3'):
        return dict(aux_logits=False, init_weights=True, transform_input=True)  # normalises as its weights expect
    if name.startswith('vit_'):
        return dict(image_size=weights.meta['min_size'][0])
    return {}


def _build(name: str, kwargs: dict) -> nn.Module:
    from torchvision import models

    try:
        net = models.get_model(name, weights=None, **kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f'torchvision cannot build {name} with {kwargs}: {one_line(error, first=True)}') from error
    if name.startswith('mnasnet'):
        net.__class__ = importlib.import_module('.mnasnet', __package__).PresentMNASNet
    return net


def _classifier(net: nn.Module) -> tuple[str, nn.Module]:
    """The last classifying layer (a convolution in SqueezeNet) and its attribute path."""
    child = next(name for name in _CLASSIFIERS if hasattr(net, name))
    layers = [(path, part) for path, part in getattr(net, child).named_modules(prefix=child)]
    return [(path, part) for path, part in layers if isinstance(part, (nn.Linear, nn.Conv2d))][-1]


def _download(url: str, local_only: bool) -> Path:
    """torchvision's file in the cache that ``torch.hub`` uses; downloads are compared with the hash in their name."""
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name
    if path.is_file():
        return path
    if local_only:
        raise FileNotFoundError(path)
    os.makedirs(path.parent, exist_ok=True)
    hashed = re.search(r'-([a-f0-9]{8,})\.', path.name)
    torch.hub.download_url_to_file(url, str(path), hashed and hashed.group(1), progress=False)
    return path
