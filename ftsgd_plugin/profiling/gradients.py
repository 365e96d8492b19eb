"""Gradient norm of every layer of a pretrained classifier, before any update (paper, section 3)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice

from mmengine.model import BaseModel

from ..layers import Layer, list_layers, paper_parts, weight_norms
from ..utils.errors import UserError
from ..utils.norms import scaled_norms, stacked_norms
from .train_step import training_loss


@dataclass(frozen=True)
class Gradient:
    """The gradient of one layer, or of a group of layers that the paper's authors count as one.

    Attributes:
        name: The layer's name, or the group's (``'trans0_attn'``, ``'stage1'``).
        role: The layer's role, or that of the group's last layer; see :class:`ftsgd_plugin.layers.Layer`.
        block: Index of the block; ``None`` outside blocks and for a group of several.
        group: The group's name.
        part: Its part of the paper's figure: ``'embed'``, ``'middle'``, ``'head'`` or ``''`` (left out).
        parameters: Number of parameters.
        norm: L2 norm of the mean loss's gradient, mean over batches.
        std: Standard deviation of ``norm`` over batches (n - 1); ``None`` for one batch.
        norm_per_sqrt_n, norm_per_weight_norm: See :func:`ftsgd_plugin.utils.norms.scaled_norms`.
    """

    name: str
    role: str
    block: int | None
    group: str
    part: str
    parameters: int
    norm: float
    std: float | None
    norm_per_sqrt_n: float
    norm_per_weight_norm: float | None


@dataclass(frozen=True)
class GradientProfile:
    """The gradients of a model on its data.

    Attributes:
        name: Usually the config's name.
        batches: Number of batches in the means.
        batch_size: Images per batch.
        layers: From input to output; layers without a gradient are left out.
        groups: Likewise, in the authors' coarser layers: whole stages of a convnet, BiT's head with its norm.
    """

    name: str
    batches: int
    batch_size: int
    layers: tuple[Gradient, ...]
    groups: tuple[Gradient, ...]

    @property
    def embed(self) -> float:
        """Norm of the embedding layer: its groups' mean norms, merged as the root of the sum of squares."""
        return math.hypot(*(group.norm for group in self.groups if group.part == 'embed'))

    @property
    def head(self) -> float:
        """Norm of the head."""
        return math.hypot(*(group.norm for group in self.groups if group.part == 'head'))

    @property
    def middle(self) -> tuple[Gradient, ...]:
        """The groups between embedding and head, as in the paper's figure."""
        return tuple(group for group in self.groups if group.part == 'middle')

    @property
    def largest_middle(self) -> Gradient:
        """The group with the largest norm between embedding and head.

        ``LayerGradNormHook`` logs the largest *layer* as ``grad/middle``. A ViT's groups are single layers; a convnet's
        are whole stages, so that its ``grad/middle`` is smaller.
        """
        return max(self.middle, key=lambda group: group.norm)

    @property
    def ratio(self) -> float:
        """``embed`` over the norm of ``largest_middle``: above 1, the embedding's is the largest."""
        return self.embed / self.largest_middle.norm if self.largest_middle.norm else math.inf

    def to_dict(self) -> dict:
        """Plain JSON data: the attributes, and ``embed``, ``head``, ``largest_middle`` (norm) and ``ratio``."""
        summary = dict(embed=self.embed, head=self.head, largest_middle=self.largest_middle.norm, ratio=self.ratio)
        fields = asdict(self)
        return {**{key: fields.pop(key) for key in ('name', 'batches', 'batch_size')}, **summary, **fields}

    @classmethod
    def from_dict(cls, content: dict) -> 'GradientProfile':
        """The profile of :meth:`to_dict`."""
        layers, groups = (tuple(Gradient(**one) for one in content[key]) for key in ('layers', 'groups'))
        return cls(content['name'], content['batches'], content['batch_size'], layers, groups)


def measure_gradients(
    model: BaseModel,
    batches: Iterable[dict],
    count: int | None = None,
    accumulate: int = 1,
    name: str = '',
    progress: Callable[[int], None] | None = None,
) -> GradientProfile:
    """Gradient norms of a model in training mode; nothing is updated, gradients are cleared.

    The protocol of the paper's section 3 (the authors' ``--no_train`` runs): per batch the norm of every layer's
    gradient of the mean loss, then the mean over batches.

    Args:
        model: A classifier on its device, with pretrained weights and a fresh head.
        batches: Batches of its training data loader, before the data preprocessor.
        count: Batches to use. Defaults to all.
        accumulate: Batches of the loader that make up one batch of the optimizer. An incomplete one at the end is
            left out.
        name: Name of the profile.
        progress: Called after every batch with the number of batches done.

    Returns:
        GradientProfile: The means.

    Raises:
        UserError: There is not a single complete batch, or the model lacks an embedding layer, a head or layers
            between.
    """
    layers = list_layers(model)
    batches, norms, batch_size = iter(batches), [], 0
    while count is None or len(norms) < count:
        window = list(islice(batches, accumulate))
        if len(window) < accumulate:
            break
        images = _backward(model, window)
        batch_size = batch_size or images  # of the first batch: the last one of an epoch may be smaller
        norms.append(current_norms(layers))
        if progress is not None:
            progress(len(norms))
    model.zero_grad()
    if not norms:
        raise UserError(f'{name or "gradients"}: the training data has no batch of this size; lower the batch size.')
    return _profile(name, layers, norms, batch_size)


def _backward(model: BaseModel, window: list[dict]) -> int:
    """Gradient of the mean loss over the batches of a window; returns their number of images."""
    model.train()
    model.zero_grad()
    images = 0
    for batch in window:
        data = model.data_preprocessor(batch, training=True)
        (training_loss(model, data) / len(window)).backward()
        images += len(data['inputs'])
    return images


def current_norms(layers: list[Layer]) -> dict[int, float]:
    """Norms of the gradients that the parameters hold now.

    Args:
        layers: Output of :func:`ftsgd_plugin.layers.list_layers`.

    Returns:
        dict: Index of the layer -> norm; layers without a gradient are left out.
    """
    grads = {
        i: own
        for i, layer in enumerate(layers)
        if (own := [param.grad for param in layer.params.values() if param.grad is not None])
    }
    return dict(zip(grads, stacked_norms(list(grads.values())).tolist()))


def _profile(name: str, layers: list[Layer], norms: list[dict[int, float]], batch_size: int) -> GradientProfile:
    parts, weights = paper_parts(layers), weight_norms(layers).tolist()
    seen = sorted(set().union(*norms))
    members: dict[str, list[int]] = {}
    for i in seen:
        members.setdefault(layers[i].group, []).append(i)

    def gradient(label: str, indices: list[int], block: int | None) -> Gradient:
        own = [math.hypot(*(batch[i] for i in indices if i in batch)) for batch in norms]
        mean = sum(own) / len(own)
        std = math.sqrt(sum((norm - mean) ** 2 for norm in own) / (len(own) - 1)) if len(own) > 1 else None
        parameters, weight = sum(layers[i].num_params for i in indices), math.hypot(*(weights[i] for i in indices))
        last = layers[indices[-1]]
        return Gradient(
            label,
            last.role,
            block,
            last.group,
            parts[last.group],
            parameters,
            mean,
            std,
            *scaled_norms(mean, parameters, weight),
        )

    profile = GradientProfile(
        name,
        len(norms),
        batch_size,
        tuple(gradient(layers[i].name, [i], layers[i].block) for i in seen),
        tuple(
            gradient(group, indices, layers[indices[0]].block if len(indices) == 1 else None)
            for group, indices in members.items()
        ),
    )
    absent = {'embed', 'middle', 'head'} - {group.part for group in profile.groups}
    if absent:
        raise UserError(
            f'{name or "gradients"}: the model has no gradient in its {" and ".join(sorted(absent))} layers; let them '
            'train (frozen_stages, frozen backbone) to compare them.'
        )
    return profile
