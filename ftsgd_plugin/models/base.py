"""Base class of the backbones of other libraries: when pretrained weights are loaded, and the speed options."""

import functools
from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModule
from torch import nn

from ..layers.generic import image_shape
from ..layers.trace import trace
from ..utils.errors import UserError
from .pretrained import HubFile


class PooledBackbone(BaseModule):
    """A network of another library with pooled features, as an MMPretrain backbone.

    Weights are loaded in ``init_weights``, which the runner calls before training and not for testing. Building and
    testing do not need the file.

    Args:
        net (nn.Module): The network; its forward returns features, see :func:`pooled`.
        pretrained (bool | str): ``False`` (default): random weights; ``True``: by name from the library's hub; a path:
            from that file.
        channels_last (bool): Keep the inputs and the weights of plain convolutions in channels-last memory format;
            on a CPU only for networks without group norm. Defaults to False.
        grad_checkpointing (bool): Recompute activations in the backward pass, with the library's own code.
            Defaults to False.
        compile (bool | dict): ``torch.compile`` the network, with these arguments (``dict(backend='aot_eager')``).
            Freeze before the first forward pass, as the optimizer constructor does. Defaults to False.

    Raises:
        UserError: ``pretrained`` is of another type.
    """

    def __init__(
        self,
        net: nn.Module,
        pretrained: bool | str = False,
        channels_last: bool = False,
        grad_checkpointing: bool = False,
        compile: bool | Mapping = False,
    ) -> None:
        super().__init__()
        if not isinstance(pretrained, (bool, str)):
            raise UserError(f'pretrained={pretrained!r} is neither True, False nor the path of a weight file.')
        self.net, self.pretrained, self.channels_last = net, pretrained, channels_last
        # On the CPU, torch 2.11 crashes in the backward pass of GroupNorm where a channels-last input needs no
        # gradient, as after a frozen stage. The option is for GPUs.
        self._has_group_norm = any(isinstance(module, nn.GroupNorm) for module in net.modules())
        if channels_last:
            # Plain convolutions only: BiT's standardise their weights in every pass, which undoes the layout.
            for module in net.modules():
                if type(module) is nn.Conv2d:
                    module.to(memory_format=torch.channels_last)
        if grad_checkpointing:
            net.set_grad_checkpointing()
        if compile is not False:
            # In place: parameter names stay, and a deep copy (EMA) drops the compiled code instead of sharing it.
            net.compile(**(compile if isinstance(compile, Mapping) else {}))

    @functools.cached_property
    def num_features(self) -> int:
        """Width of the features, from a forward pass without computation: what libraries declare is not always it.

        Raises:
            UserError: The forward pass fails, or returns no features per image.
        """
        output = trace(self.net, image_shape(self.net)).output
        with torch.device('meta'):
            return self.pool(output).shape[1]

    def pool(self, output: object) -> torch.Tensor:
        """Features (B, C) from what the network returns."""
        return pooled(output, getattr(self.net, 'output_fmt', 'NCHW'))

    def load_pretrained(self) -> None:
        """Fill ``self.net`` completely from ``self.pretrained`` (``True`` or a path)."""
        raise NotImplementedError

    def hub_file(self) -> HubFile | None:
        """The weight file on a hub of ``pretrained``; ``None`` if that is a file or nothing.

        Raises:
            UserError: The library has no weights of this name.
        """
        raise NotImplementedError

    def init_weights(self) -> None:
        """Load the pretrained weights; without them the network keeps the random weights it was built with."""
        if self.pretrained is not False and not self._is_init:
            self.load_pretrained()
        self._is_init = True

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Pooled features.

        Args:
            x: Normalised images (B, 3, H, W).

        Returns:
            tuple: One tensor (B, C).
        """
        if self.channels_last and (x.device.type != 'cpu' or not self._has_group_norm):
            x = x.contiguous(memory_format=torch.channels_last)
        return (self.pool(self.net(x)),)


def pooled(output: torch.Tensor | Sequence, layout: str = 'NCHW') -> torch.Tensor:
    """One feature vector per image from what a network without its classifier returns.

    Args:
        output: Features (B, C); tokens (B, N, C) or a feature map (B, C, H, W), which are averaged; or a sequence of
            results, of which the first counts (CoCa returns pooled features and tokens).
        layout: ``'NHWC'`` if feature maps are (B, H, W, C), as timm's ``output_fmt`` says. Defaults to ``'NCHW'``.

    Returns:
        torch.Tensor: Features (B, C).

    Raises:
        UserError: It is none of these.
    """
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
        found = f'{output.ndim} dimensions' if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(f'the network returns {found} instead of features (B, C), tokens or a feature map per image.')
    if output.ndim == 2:
        return output
    if output.ndim == 3:
        return output.mean(1)
    return output.mean((1, 2) if layout == 'NHWC' else (2, 3))
