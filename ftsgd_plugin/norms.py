"""L2 norms layer by layer, computed on the device, and the parts of a network that the paper compares."""

from collections.abc import Sequence

import torch

from .layers import Layer

# On a CPU torch's norms of float32 sum one square after the other: for the 2.4 million entries of a ViT-B/16's MLP
# weight they are 4e-5 off, and 2e-3 where all entries are alike. In pieces: 1e-7, and 1e-5. Pieces of this size also
# stay on one thread; thousands of small parallel regions (as of torch.dot) stall wherever other programs run.
_PIECE = 16384


def stacked_norms(tensors: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """L2 norm of every layer, its tensors taken as one vector; no synchronisation with the device.

    Args:
        tensors: Per layer its tensors (L lists, none empty), all on one device. Half precision is summed in float32.

    Returns:
        torch.Tensor: Norms (L,) on that device.
    """
    pieces, sizes = [], []
    for own in tensors:
        before = len(pieces)
        for tensor in own:
            tensor = tensor.detach()
            if tensor.dtype in (torch.float16, torch.bfloat16):
                tensor = tensor.float()
            pieces.extend(tensor.flatten().split(_PIECE) if tensor.device.type == 'cpu' else [tensor])
        sizes.append(len(pieces) - before)
    norms = torch.stack(torch._foreach_norm(pieces))
    return torch.stack(torch._foreach_norm(norms.split(sizes)))


def weight_norms(layers: Sequence[Layer]) -> torch.Tensor:
    """L2 norms of the weights of all layers (L,), on the device."""
    return stacked_norms([list(layer.params.values()) for layer in layers])


def paper_parts(layers: Sequence[Layer]) -> dict[str, str]:
    """Which part of the paper's gradient figure each group of layers is (section 3; the authors' notebooks).

    Their figure has one point for the embedding layer (patch convolution and ``ln_pre``; stem and first stage), one for
    the head (BiT's with the norm before it), and the layers between. It leaves out positional embedding, class token
    and the first norm of a ViT, and CLIP's projection.

    Args:
        layers: Output of :func:`ftsgd_plugin.layers.list_layers`.

    Returns:
        dict: Group name -> ``'embed'``, ``'middle'``, ``'head'``, or ``''`` for what the figure leaves out; from input
        to output.
    """
    roles = {layer.group: layer.role for layer in layers}  # of a group's last layer: BiT's head holds its final norm
    names = {'embed': 'embed', 'block': 'middle', 'norm': 'middle', 'head': 'head'}
    parts = {group: names.get(role, '') for group, role in roles.items()}
    if 'position' in roles.values():
        parts[next(group for group, role in roles.items() if role == 'block')] = ''
    return parts
