"""Which dicts of a config are built into which kind of object, and with what the builder completes them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    Registry,
)
from mmengine.runner import Runner
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from ..optim.library_optimizers import missing_library
from ..optim.paramwise import knows_keys_of
from ..records import LOADERS
from ..utils.errors import UserError
from ..utils.names import did_you_mean, type_name
from .signatures import AVERAGES


@dataclass(frozen=True)
class Site:
    """A dict of a config and what takes its keys.

    Attributes:
        key: Its dotted path, for messages.
        cfg: The dict.
        target: The class or function.
        given: Names that the builder supplies: they need not be in the dict.
        extra: Keys that the builder takes out before it calls ``target``.
    """

    key: str
    cfg: Mapping
    target: Callable
    given: frozenset[str] = frozenset()
    extra: frozenset[str] = field(default=frozenset(), repr=False)


def find_type(value: Any, registry: Registry, key: str, scope: str | None) -> Callable:
    """The class or function that a ``type`` names, in either style of config.

    Raises:
        UserError: It is not registered; the nearest names are suggested.
    """
    if not isinstance(value, str):
        if callable(value):
            return value
        raise UserError(f'{key}.type={value!r} is neither a name nor a class; correct it.')
    # MMEngine looks functions up in its own registry only, which no library extends.
    with nullcontext(registry) if registry is FUNCTIONS else registry.switch_scope_and_registry(scope) as inner:
        try:
            found = inner.get(value)
        except RuntimeError:  # an import path that leads nowhere
            found = None
        if found is not None:
            return found
        if reason := missing_library(value):
            raise UserError(reason)
        names: set[str] = set()
        level = inner
        while level is not None:
            names |= level.module_dict.keys()
            level = level.parent
        raise UserError(
            f'{key}: type={value!r} is not in the {inner.scope}::{inner.name} registry; '
            f'{did_you_mean(type_name(value), names)} A class of your own needs custom_imports.'
        )


def sites(cfg: Mapping) -> Iterator[Site]:
    """Every dict of a run's config whose keys are checked, in the order in which a user reads a config.

    Raises:
        UserError: A ``type`` is missing or not registered, or a part has another kind (a list for a dict).
    """
    walk = _Walk(cfg)
    yield from walk.model()
    for name in LOADERS:
        yield from walk.loader(name)
    for part in (walk.loops, walk.evaluators, walk.optim_wrapper, walk.param_schedulers, walk.hooks, walk.rest):
        yield from part()


def _each(key: str, parts: Any) -> Iterator[tuple[str, Any]]:
    """``(key, part)`` of a list; a single dict counts as a list of one."""
    if isinstance(parts, Mapping):
        yield key, parts
    elif isinstance(parts, list | tuple):
        yield from ((f'{key}.{i}', part) for i, part in enumerate(parts))
    elif isinstance(parts, str | int | float):
        raise UserError(f'{key}={parts!r} is neither a dict nor a list of dicts; correct it.')


class _Walk:
    """The sites of one config, part by part."""

    def __init__(self, cfg: Mapping) -> None:
        self.cfg = cfg
        self.scope = cfg.get('default_scope') or 'mmengine'

    def site(
        self,
        key: str,
        part: Any,
        registry: Registry | None,
        given: Sequence[str] = (),
        extra: Sequence[str] | Mapping = (),
        default: Any = None,
        optional: bool = False,
        outer: Any = None,
    ) -> Iterator[Site]:
        """One dict: ``given`` and ``extra`` as in :class:`Site`; ``default`` is the type of one without."""
        if part is None or not isinstance(part, Mapping | str | Sequence | int | float):
            return  # an object that has been built already
        if not isinstance(part, Mapping):
            raise UserError(f'{key}={part!r} is not a dict; write {key}=dict(type=...).')
        kind = part.get('type', default)
        if kind is None:
            if optional:
                return
            raise UserError(f'{key} has no type; name the class: {key}=dict(type=...).')
        inner = part.get('_scope_') or self.scope_of(outer)
        target = find_type(kind, registry, key, inner) if registry is not None else kind
        yield Site(key, part, target, frozenset(given), frozenset({'type', '_scope_', *extra}))

    def scope_of(self, outer) -> str:
        return (outer.get('_scope_') if isinstance(outer, Mapping) else None) or self.scope

    def model(self) -> Iterator[Site]:
        part = self.cfg.get('model')
        yield from self.site('model', part, MODELS)
        if not isinstance(part, Mapping):
            return
        for name in ('backbone', 'neck', 'head'):
            if isinstance(part.get(name), Mapping):
                yield from self.site(f'model.{name}', part[name], MODELS, outer=part)
        if isinstance(part.get('head'), Mapping) and isinstance(part['head'].get('loss'), Mapping):
            yield from self.site('model.head.loss', part['head']['loss'], MODELS, outer=part)
        key, inner = 'model.data_preprocessor', part.get('data_preprocessor')
        if 'data_preprocessor' not in part:
            key, inner = 'data_preprocessor', self.cfg.get('data_preprocessor')
        if isinstance(inner, Mapping):
            default = 'ClsDataPreprocessor' if type_name(part) == 'ImageClassifier' else None
            yield from self.site(key, inner, MODELS, default=default, optional=True, outer=part)

    def dataset(self, key, part, outer=None) -> Iterator[Site]:
        yield from self.site(key, part, DATASETS, outer=outer)
        if not isinstance(part, Mapping):
            return
        for inner_key, transform in _each(f'{key}.pipeline', part.get('pipeline')):
            yield from self.site(inner_key, transform, TRANSFORMS, outer=part if '_scope_' in part else outer)
        if part.get('dataset') is not None:
            yield from self.dataset(f'{key}.dataset', part['dataset'], part)
        for inner_key, inner in _each(f'{key}.datasets', part.get('datasets')):
            yield from self.dataset(inner_key, inner, part)

    def loader(self, name) -> Iterator[Site]:
        part = self.cfg.get(name)
        if not isinstance(part, Mapping):
            return
        given = {'dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn'}
        extra = {'num_batch_per_epoch', 'disable_subprocess_warning', *given}
        yield Site(name, part, DataLoader, frozenset(given), frozenset(extra))
        for needed in ('dataset', 'sampler'):  # after the keys have been looked at: it may have a misspelt name
            if part.get(needed) is None:
                raise UserError(f'{name}: has no {needed}; add {needed}=dict(type=...).')
        yield from self.dataset(f'{name}.dataset', part['dataset'], part)
        yield from self.site(f'{name}.sampler', part.get('sampler'), DATA_SAMPLERS, ('dataset', 'seed'), outer=part)
        given = ('sampler', 'batch_size')
        yield from self.site(f'{name}.batch_sampler', part.get('batch_sampler'), DATA_SAMPLERS, given)
        collate = part.get('collate_fn')
        if isinstance(collate, Mapping):
            yield from self.site(f'{name}.collate_fn', collate, FUNCTIONS, ('data_batch', 'batch'))

    def loops(self) -> Iterator[Site]:
        part = self.cfg.get('train_cfg')
        given = ('runner', 'dataloader')
        if isinstance(part, Mapping) and 'type' in part:
            yield from self.site('train_cfg', part, LOOPS, given)
        elif part is not None:
            by_epoch = not isinstance(part, Mapping) or part.get('by_epoch', True)
            default = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
            yield from self.site('train_cfg', part, LOOPS, given, ('by_epoch',), default)
        for name, default in (('val_cfg', 'ValLoop'), ('test_cfg', 'TestLoop')):
            yield from self.site(name, self.cfg.get(name), LOOPS, (*given, 'evaluator'), default=default)

    def evaluators(self) -> Iterator[Site]:
        for name in ('val_evaluator', 'test_evaluator'):
            part = self.cfg.get(name)
            if isinstance(part, Mapping) and 'metrics' in part:
                if type_name(part) == 'GroupAccuracy':
                    raise UserError(
                        f'{name}.metrics: MMEngine keeps this key for lists of evaluators; write items=[...].'
                    )
                yield from self.site(name, part, EVALUATOR, default='Evaluator')
                part, name = part['metrics'], f'{name}.metrics'
            for key, metric in _each(name, part):
                yield from self.site(key, metric, METRICS)

    def optim_wrapper(self) -> Iterator[Site]:
        part = self.cfg.get('optim_wrapper')
        several = isinstance(part, Mapping) and 'optimizer' not in part and 'type' not in part
        if not (several and part.get('constructor') is not None):  # else: one wrapper per optimizer, by its own rule
            extra = ('constructor', 'paramwise_cfg', 'optimizer')
            yield from self.site('optim_wrapper', part, OPTIM_WRAPPERS, (), extra, 'OptimWrapper')
        if not isinstance(part, Mapping):
            return
        constructor, optimizer = part.get('constructor'), part.get('optimizer')
        if optimizer is not None:
            yield from self.site('optim_wrapper.optimizer', optimizer, OPTIMIZERS, ('params', 'model_params'))
        elif constructor is None or knows_keys_of(constructor):
            raise UserError("optim_wrapper: has no optimizer; add optimizer=dict(type='SGD', lr=...).")
        if constructor is not None:
            find_type(constructor, OPTIM_WRAPPER_CONSTRUCTORS, 'optim_wrapper.constructor', self.scope)
        clip = part.get('clip_grad')
        if isinstance(clip, Mapping):
            function = {'norm': clip_grad_norm_, 'value': clip_grad_value_}.get(clip.get('type', 'norm'))
            if function is None:
                raise UserError(
                    f"optim_wrapper.clip_grad.type={clip['type']!r} is neither 'norm' nor 'value'; correct it."
                )
            yield Site('optim_wrapper.clip_grad', clip, function, frozenset({'parameters'}), frozenset({'type'}))

    def param_schedulers(self) -> Iterator[Site]:
        parts = self.cfg.get('param_scheduler')
        several = isinstance(parts, Mapping) and parts and 'type' not in parts
        if several and all(isinstance(inner, Mapping | list | tuple) for inner in parts.values()):
            parts = [one for inner in parts.values() for _, one in _each('', inner)]  # by optimizer
        given, extra = ('optimizer', 'param_name'), ('convert_to_iter_based', 'epoch_length')
        for key, scheduler in _each('param_scheduler', parts):
            yield from self.site(key, scheduler, PARAM_SCHEDULERS, given, extra)

    def hooks(self) -> Iterator[Site]:
        default = {} if self.cfg.get('default_hooks') is None else self.cfg['default_hooks']
        if not isinstance(default, Mapping):
            raise UserError(f'default_hooks={default!r} is not a dict; write default_hooks=dict(NAME=dict(type=...)).')
        for name, hook in default.items():
            yield from self.site(f'default_hooks.{name}', hook, HOOKS, extra=('priority',))
        for key, hook in _each('custom_hooks', self.cfg.get('custom_hooks')):
            other = isinstance(hook, Mapping) and hook.get('ema_type') and type_name(hook['ema_type']) not in AVERAGES
            yield from self.site(key, hook, HOOKS, extra=hook if other else ('priority',))

    def rest(self) -> Iterator[Site]:
        cfg = self.cfg
        yield from self.site('visualizer', cfg.get('visualizer'), VISUALIZERS, ('name',), ('name',), 'Visualizer')
        if isinstance(cfg.get('visualizer'), Mapping):
            for key, backend in _each('visualizer.vis_backends', cfg['visualizer'].get('vis_backends')):
                yield from self.site(key, backend, VISBACKENDS, ('save_dir',))
        yield from self.site('log_processor', cfg.get('log_processor'), LOG_PROCESSORS, default='LogProcessor')
        default = 'MMDistributedDataParallel'
        yield from self.site(
            'model_wrapper_cfg', cfg.get('model_wrapper_cfg'), MODEL_WRAPPERS, ('module',), (), default
        )
        yield from self.site('randomness', cfg.get('randomness'), None, ('self',), (), Runner.set_randomness)
        yield from self.site('auto_scale_lr', cfg.get('auto_scale_lr'), None, (), (), _auto_scale_lr)
        yield from self.site('env_cfg', cfg.get('env_cfg'), None, (), (), _env_cfg)


def _auto_scale_lr(base_batch_size: int, enable: bool = False) -> None:
    """What MMEngine reads from ``auto_scale_lr``."""


def _env_cfg(
    cudnn_benchmark: bool = False, mp_cfg: dict | None = None, dist_cfg: dict | None = None, resource_limit: int = 4096
) -> None:
    """What MMEngine reads from ``env_cfg``."""
