"""Which method to recommend for a model, from its measured gradients and predicted costs, and why."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from ..utils.format import format_bytes
from .evidence import Correlation, PaperPoint, Point, correlation, mean_ood, nearest, paper_points
from .gradients import GradientProfile
from .own_points import OwnPoint, own_points
from .predict import MethodPrediction

# Between the largest ratio of the BiT ResNets in the paper, where freeze-embed changes nothing, and the smallest one of
# its other models: about their geometric mean.
SGD_BELOW_RATIO = 0.65
HEADROOM = 1.1  # over the predicted peak, for workspaces, fragmentation and the CUDA context
# From the least memory saved to the most.
MEMORY_SAVERS = ('freeze-embed', 'freeze-embed-no-momentum', 'sgd-in-backward')
DRAWBACKS = {
    'freeze-embed-no-momentum': 'momentum (on CLIP ViT-B/16 the paper found plain SGD without it equal OOD on average)',
    'sgd-in-backward': 'momentum, accumulation and clipping by global norm',
}


@dataclass(frozen=True)
class MethodCost:
    """Predicted cost of a method.

    Attributes:
        bytes: Peak over the run.
        seconds_per_image: Training time per image, averaged over the run: the measured step of this model scaled by
            the method's FLOPs.
        fits: Whether the peak with 10 % to spare is within the memory; ``None`` if that is unknown.
    """

    bytes: int
    seconds_per_image: float
    fits: bool | None


@dataclass(frozen=True)
class Diagnosis:
    """A recommended method with its reasons.

    Attributes:
        ratio: Gradient norm of the embedding over that of the largest middle layer.
        recommendation: Name of a method part.
        reasons: Full sentences.
        methods: Cost by method.
        memory: Bytes that the methods have to fit; ``None`` if unknown.
        batch_size: Images per step that the costs are for.
        profile: The measured gradients.
        paper: The paper's points.
        evidence: Correlation of ratio and gain over these points; over ours too if they were included.
        left_out: Method -> why there is no cost of it.
        ours: What was measured with this project.
        ranks: If no method fits one device: the number of devices on which ``sharded_method`` fits, sharded.
        sharded_method: That method.
    """

    ratio: float
    recommendation: str
    reasons: list[str]
    methods: dict[str, MethodCost]
    memory: int | None
    batch_size: int
    profile: GradientProfile
    paper: list[PaperPoint]
    evidence: Correlation
    left_out: dict[str, str] = field(default_factory=dict)
    ours: list[OwnPoint] = field(default_factory=list)
    ranks: int | None = None
    sharded_method: str | None = None

    @property
    def headline(self) -> str:
        """The answer in a sentence."""
        if self.methods[self.recommendation].fits is False:
            text = f'No method fits {format_bytes(self.memory)}; {self.recommendation} needs the least.'
            return f'{text} Sharded over {self.ranks} devices, {self.sharded_method} fits.' if self.ranks else text
        return f'Use {self.recommendation}.'

    def to_dict(self) -> dict:
        """Plain JSON data."""
        return {**asdict(self), 'profile': self.profile.to_dict()}


def choose_method(
    profile: GradientProfile,
    predictions: Sequence[MethodPrediction],
    seconds_per_image: float,
    memory: int | None = None,
    ours: Sequence[OwnPoint] | None = None,
    include_own: bool = False,
) -> Diagnosis:
    """Choose a method.

    The choice between plain SGD and freeze-embed follows the ratio. Where it is as low as a BiT ResNet's, the paper
    found no difference on average: plain SGD. Otherwise freeze-embed, whose gain grows with the ratio on average and
    which costs nothing. AdamW is not recommended: over the paper's tables freeze-embed is level with it out of
    distribution. Where memory is short, a variant of freeze-embed that needs less of it is recommended.

    Args:
        profile: Gradients of the model on its data.
        predictions: Predicted costs of the methods, including ``sgd`` and those of ``MEMORY_SAVERS``.
        seconds_per_image: Time of a step in which everything trains, from
            :func:`ftsgd_plugin.profiling.diagnosis.full_step_seconds`.
        memory: Available bytes; ``None`` if unknown.
        ours: What was measured with this project. Default: what comes with the package.
        include_own: Whether the neighbours and the correlation are over these too. The threshold stays the paper's.
    """
    ours = list(own_points() if ours is None else ours)
    paper = paper_points()
    points = [*paper, *ours] if include_own else paper
    full = next(method for method in predictions if method.name == 'sgd').mean_flops_per_image
    costs = {
        method.name: MethodCost(
            method.peak,
            seconds_per_image * method.mean_flops_per_image / full,
            None if memory is None else method.peak * HEADROOM <= memory,
        )
        for method in predictions
    }
    evidence = correlation(points)
    reasons = [_about_ratio(profile), _about_neighbours(points, profile.ratio), _about_evidence(evidence)]
    if ours:
        reasons.append(_about_ours(ours, include_own))
    preferred = preferred_method(profile)
    recommendation, why = _fit_memory(preferred, costs, memory)
    reasons += [*why, _about_adamw(costs, recommendation)]
    batch_size = predictions[0].batch_size
    found = profile.ratio, recommendation, reasons, costs, memory, batch_size, profile, paper, evidence
    return Diagnosis(*found, ours=ours)


def preferred_method(profile: GradientProfile) -> str:
    """The method that suits the gradients, whatever it costs."""
    return 'sgd' if profile.ratio < SGD_BELOW_RATIO else 'freeze-embed'


def _about_ratio(profile: GradientProfile) -> str:
    largest = profile.largest_middle
    text = (
        f'The embedding layer has a gradient norm of {profile.embed:.3g}, {profile.ratio:.2g} times that of the '
        f'largest middle layer ({largest.name}, {largest.norm:.3g}), over {profile.batches} batches of '
        f'{profile.batch_size}'
    )
    if profile.ratio < SGD_BELOW_RATIO:
        return f'{text}: much less than the rest, so one learning rate suits all layers and plain SGD is enough.'
    if profile.ratio < 1.2:
        return (
            f"{text}: about the same, between the paper's ResNets, where freezing it changed nothing, and its ViTs, "
            'where it helped; freezing it costs nothing.'
        )
    return f'{text}: a learning rate that suits the other layers moves it too far.'


def _about_neighbours(points: Sequence[Point], ratio: float) -> str:
    near = nearest(points, ratio)
    gains = sorted(point.freeze_embed_gain for point in near)
    models = ', '.join(sorted({point.model for point in near}))
    own = sum(isinstance(point, OwnPoint) for point in near)
    whose = f'{len(near)} experiments of the paper and ours ({own})' if own else f"paper's {len(near)} experiments"
    return (
        f'In the {whose} with the nearest ratios ({min(p.ratio for p in near):.2g} to '
        f'{max(p.ratio for p in near):.2g}; {models}) freeze-embed changed the OOD accuracy of SGD by '
        f'{gains[0]:+.1f} to {gains[-1]:+.1f} points, {sum(gains) / len(gains):+.1f} on average.'
    )


def _about_evidence(evidence: Correlation) -> str:
    whose = 'of the paper (7 models)' if not evidence.own else f'of the paper (7 models) and ours ({evidence.own})'
    return (
        f'The ratio is a hint, not a proof: over {evidence.points} experiments {whose} its rank '
        f'correlation with the gain is {evidence.spearman:.2f}; the same model gained 3 to 15 points on different data.'
    )


def _about_ours(ours: Sequence[OwnPoint], included: bool) -> str:
    """What was measured with this project; it is evidence of another kind, of few seeds and other data."""
    ids, oods = ([getattr(point, key) for point in ours] for key in ('gain_id', 'freeze_embed_gain'))
    many = len(ours) > 1
    status = (
        'counted above; the threshold is of the paper alone' if included else "not counted above, which is the paper's"
    )
    return (
        f'Measured with this project ({status}): {len(ours)} point{"s" * many} with {_range(ours)}, where freeze-embed '
        f'changed SGD by {_span(ids)} points ID and {_span(oods)} OOD.'
    )


def _range(points: Sequence[OwnPoint]) -> str:
    low, high = (choose(point.ratio for point in points) for choose in (min, max))
    return f'ratio {low:.2f}' if low == high else f'ratios {low:.2f} to {high:.2f}'


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f'{low:+.1f}' if low == high else f'{low:+.1f} to {high:+.1f}'


def _fit_memory(preferred: str, costs: dict[str, MethodCost], memory: int | None) -> tuple[str, list[str]]:
    """The method to recommend, with the reasons that memory adds."""
    if memory is None:
        return preferred, ['The available memory is unknown (no GPU); give it, e.g. --memory 8GiB, to see what fits.']
    candidates = [preferred, *(name for name in MEMORY_SAVERS if name != preferred)]
    fitting = [name for name in candidates if costs[name].fits]
    limit, wanted = format_bytes(memory), format_bytes(costs[preferred].bytes)
    if not fitting:
        least = min(candidates, key=lambda name: costs[name].bytes)
        return least, [
            f'No method fits {limit} at this batch size; {least} needs the least, '
            f'{format_bytes(costs[least].bytes)}: halve train_dataloader.batch_size (and set '
            'optim_wrapper.accumulative_counts=2, not with sgd-in-backward), or set '
            'model.backbone.grad_checkpointing=True.'
        ]
    if fitting[0] == preferred:
        return preferred, [f'It needs {wanted} of the {limit}, with 10 % to spare.']
    name = fitting[0]
    price = f' and gives up {DRAWBACKS[name]}' if name in DRAWBACKS else ''
    text = f'{preferred} would need {wanted}, more than {limit} allows with 10 % to spare; '
    return name, [f'{text}{name} fits with {format_bytes(costs[name].bytes)}{price}.']


def _about_adamw(costs: dict[str, MethodCost], recommendation: str) -> str:
    text = (
        "AdamW is level with SGD (freeze-embed) out of distribution over the paper's tables "
        f'({mean_ood("adamw"):.1f} and {mean_ood("freeze-embed"):.1f} %)'
    )
    if 'adamw' not in costs or recommendation == 'adamw':
        return f'{text}.'
    more = costs['adamw'].bytes / costs[recommendation].bytes - 1
    return f'{text}; here it would need {more:.0%} more memory than {recommendation}.'
