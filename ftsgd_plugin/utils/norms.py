"""L2 norms layer by layer, computed on the device, and the parts of a network that the paper compares."""

from collections.abc import Sequence

import torch

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
