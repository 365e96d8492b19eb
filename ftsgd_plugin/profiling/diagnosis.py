"""Which method for this model and this data, why, and at what cost: the logic of ``tools/diagnose.py``."""

import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from mmengine.model import BaseModel

from .evidence import Correlation, PaperPoint, correlation, nearest, paper_points
from .gradients import GradientProfile
from .predict import MethodPlan

# The paper's ratios are at most 0.33 (BiT, where freeze-embed changes nothing) or at least 1.27 (all others); nothing
# is known between, and this is the middle by factor.
TOWERS_FROM = 0.65
HEADROOM = 1.1  # over the planned peak: what a plan cannot count (workspaces, fragmentation, the CUDA context)
# From the least memory saved to the most; each gives up something for it.
LADDER = ('freeze-embed', 'freeze-embed-no-momentum', 'sgd-in-backward')
GIVES_UP = {
    'freeze-embed-no-momentum': 'momentum (on CLIP ViT-B/16 the paper found plain SGD without it equal OOD on average)',
    'sgd-in-backward': 'momentum, accumulation and clipping by global norm',
}


@dataclass(frozen=True)
class Cost:
    """What a method is predicted to cost.

    Attributes:
        bytes: Peak over the run, from the plan.
        seconds_per_image: Training time per picture, averaged over the run; the measured step of this model scaled by
            the method's FLOPs.
        fits: Whether the peak with 10 % to spare is within the memory; ``None`` if none was given or found.
    """

    bytes: int
    seconds_per_image: float
    fits: bool | None


@dataclass(frozen=True)
class Diagnosis:
    """The answer.

    Attributes:
        ratio: Gradient norm of the embedding over that of the largest middle layer.
        recommendation: Name of a method part.
        reasons: Sentences.
        methods: Cost by method.
        memory: Bytes that the methods have to fit; ``None`` if unknown.
        batch_size: Pictures per step that the costs are for.
        profile: The gradients.
        paper: The paper's points.
        evidence: Correlation of ratio and gain over those.
    """

    ratio: float
    recommendation: str
    reasons: list[str]
    methods: dict[str, Cost]
    memory: int | None
    batch_size: int
    profile: GradientProfile
    paper: list[PaperPoint]
    evidence: Correlation

    @property
    def headline(self) -> str:
        """The answer in a sentence."""
        if self.methods[self.recommendation].fits is False:
            return f'No method fits {gib(self.memory)}; {self.recommendation} comes nearest.'
        return f'Take {self.recommendation}.'

    def to_dict(self) -> dict:
        """Plain JSON data."""
        return {**asdict(self), 'profile': self.profile.to_dict()}


def full_step_seconds(model: BaseModel, batch: dict, repeats: int = 3, autocast: str | None = None) -> float:
    """Median time per picture of forward and backward with everything training, synchronised.

    Args:
        model: The classifier, on its device.
        batch: A batch of its loader.
        repeats: Timed steps, after one that warms up.
        autocast: ``None`` (float32) or the type of mixed precision, e.g. ``'bfloat16'``.
    """
    times, device = [], next(model.parameters()).device.type
    for _ in range(repeats + 1):
        model.zero_grad()
        _synchronise(model)
        start = time.perf_counter()
        data = model.data_preprocessor(batch, training=True)
        with torch.autocast(device, getattr(torch, autocast)) if autocast else nullcontext():
            losses = model(**data, mode='loss')
        loss, _ = model.parse_losses(losses)
        loss.backward()
        _synchronise(model)
        times.append((time.perf_counter() - start) / len(data['inputs']))
    model.zero_grad()
    return statistics.median(times[1:])


def _synchronise(model: BaseModel) -> None:
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()


def diagnose(
    profile: GradientProfile, plans: Sequence[MethodPlan], seconds_per_image: float, memory: int | None = None
) -> Diagnosis:
    """Choose a method.

    The choice between plain SGD and freeze-embed follows the ratio: where it is as low as a BiT ResNet's, the paper saw
    no difference on average; otherwise freeze-embed, whose gain grows with the ratio on average and which costs
    nothing. AdamW is not recommended: over the paper's tables freeze-embed is level with it out of distribution. Where
    memory is short, freeze-embed gives way to its leaner kin.

    Args:
        profile: Of the model on its data.
        plans: Of the methods; ``sgd`` and the ladder of freeze-embed among them.
        seconds_per_image: Of a step with everything training, from :func:`full_step_seconds`.
        memory: Bytes at hand.
    """
    points = paper_points()
    full = next(plan for plan in plans if plan.name == 'sgd').mean_flops_per_image
    costs = {
        plan.name: Cost(
            plan.peak,
            seconds_per_image * plan.mean_flops_per_image / full,
            None if memory is None else plan.peak * HEADROOM <= memory,
        )
        for plan in plans
    }
    evidence = correlation(points)
    reasons = [_about_ratio(profile), _about_neighbours(points, profile.ratio), _about_evidence(evidence)]
    preferred = 'sgd' if profile.ratio < TOWERS_FROM else 'freeze-embed'
    recommendation, why = _what_fits(preferred, costs, memory)
    reasons += [*why, _about_adamw(costs, recommendation)]
    return Diagnosis(
        profile.ratio, recommendation, reasons, costs, memory, plans[0].batch_size, profile, points, evidence
    )


def _about_ratio(profile: GradientProfile) -> str:
    largest = profile.largest_middle
    text = (
        f'The embedding layer has a gradient norm of {profile.embed:.3g}, {profile.ratio:.2g} times that of the '
        f'largest middle layer ({largest.name}, {largest.norm:.3g}), over {profile.batches} batches of '
        f'{profile.batch_size}'
    )
    if profile.ratio < TOWERS_FROM:
        return f'{text}: much less than the rest, so that one learning rate suits all layers and plain SGD will do.'
    if profile.ratio < 1.2:
        return (
            f"{text}: about the same, between the paper's ResNets, where freezing it changed nothing, and its ViTs, "
            'where it helped; freezing it costs nothing.'
        )
    return f'{text}: a learning rate that suits the rest moves it too far.'


def _about_neighbours(points: list[PaperPoint], ratio: float) -> str:
    near = nearest(points, ratio)
    gains = sorted(point.freeze_embed_gain for point in near)
    models = ', '.join(sorted({point.model for point in near}))
    return (
        f"In the paper's {len(near)} experiments with the nearest ratios ({min(p.ratio for p in near):.2g} to "
        f'{max(p.ratio for p in near):.2g}; {models}) freeze-embed changed the OOD accuracy of SGD by '
        f'{gains[0]:+.1f} to {gains[-1]:+.1f} points, {sum(gains) / len(gains):+.1f} on average.'
    )


def _about_evidence(evidence: Correlation) -> str:
    return (
        f'The ratio is a hint, not a proof: over {evidence.points} experiments of the paper (7 models) its rank '
        f'correlation with the gain is {evidence.spearman:.2f}; the same model gained 3 to 15 points on different data.'
    )


def _what_fits(preferred: str, costs: dict[str, Cost], memory: int | None) -> tuple[str, list[str]]:
    """The method to take, with the reasons that memory adds."""
    if memory is None:
        return preferred, ['No memory limit was given and no GPU found; --memory 8GiB says what fits.']
    candidates = [preferred, *(name for name in LADDER if name != preferred)]
    fitting = [name for name in candidates if costs[name].fits]
    if not fitting:
        least = min(candidates, key=lambda name: costs[name].bytes)
        return least, [
            f'No method fits {gib(memory)} at this batch size; {least} comes nearest with {gib(costs[least].bytes)}: '
            'halve train_dataloader.batch_size (and set optim_wrapper.accumulative_counts=2, not with '
            'sgd-in-backward), or set model.backbone.grad_checkpointing=True.'
        ]
    if fitting[0] == preferred:
        return preferred, [f'It needs {gib(costs[preferred].bytes)} of the {gib(memory)}, with 10 % to spare.']
    name = fitting[0]
    price = f' and gives up {GIVES_UP[name]}' if name in GIVES_UP else ''
    text = f'{preferred} would need {gib(costs[preferred].bytes)}, more than {gib(memory)} allows with 10 % to spare; '
    return name, [f'{text}{name} fits with {gib(costs[name].bytes)}{price}.']


def _about_adamw(costs: dict[str, Cost], recommendation: str) -> str:
    text = "AdamW is level with SGD (freeze-embed) out of distribution over the paper's tables (76.0 and 76.7 %)"
    if 'adamw' not in costs or recommendation == 'adamw':
        return f'{text}.'
    more = costs['adamw'].bytes / costs[recommendation].bytes - 1
    return f'{text}; here it would need {more:.0%} more memory than {recommendation}.'


def gib(size: float) -> str:
    """Bytes for people."""
    return f'{size / 2**30:.2f} GiB' if size >= 2**28 else f'{size / 2**20:.1f} MiB'
