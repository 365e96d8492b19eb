"""Gradient norm of every layer of a classifier (paper, section 3)."""

import torch
from mmengine.model import BaseModel

from ..layers import Layer, list_layers


def layer_grad_norms(model: BaseModel, batch: dict) -> list[tuple[Layer, float]]:
    """L2 norm of the gradient of the mean loss, layer by layer; nothing is updated.

    Args:
        model: A classifier, initialised.
        batch: A batch of its data loader, before the data preprocessor.

    Returns:
        list: ``(layer, norm)`` from input to output; layers without a gradient are left out.
    """
    model.train()
    model.zero_grad()
    loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode='loss'))
    loss.backward()
    norms = []
    for layer in list_layers(model):
        grads = [param.grad for param in layer.params.values() if param.grad is not None]
        if grads:
            norms.append((layer, torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))).item()))
    model.zero_grad()
    return norms
