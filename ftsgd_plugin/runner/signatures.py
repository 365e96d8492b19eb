"""What a class of a config takes: names and kinds of its arguments, those of its bases included."""

import ast
import functools
import inspect
import math
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Union

import torch
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.model import ExponentialMovingAverage, MomentumAnnealingEMA
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..optim.flash_release import FlashReleaseOptimWrapper
from ..optim.sgd_in_backward import SGDInBackwardOptimWrapper

_SCALARS = {'int', 'float', 'bool'}
_KINDS = {int: 'int', float: 'float', bool: 'bool', str: 'str', NoneType: 'none', torch.Tensor: 'tensor'}
# Functions that receive the remaining keyword arguments of a class; its own signature does not say so.
_KEYWORDS_GO_TO = {
    CheckpointHook: (Runner.save_checkpoint,),
    EMAHook: (ExponentialMovingAverage.__init__, MomentumAnnealingEMA.__init__),
    SGDInBackwardOptimWrapper: (AmpOptimWrapper.__init__,),  # refuses them with a reason
    FlashReleaseOptimWrapper: (AmpOptimWrapper.__init__,),
}
AVERAGES = ('ExponentialMovingAverage', 'MomentumAnnealingEMA', 'StochasticWeightAverage')  # ema_type of EMAHook


@dataclass
class Accepted:
    """The keyword arguments of a class or function.

    Attributes:
        parameters: By name.
        hints: Resolved annotations, by name.
        open: Whether it also takes names that no signature lists.
        required: Names without a default. A base's are not counted: the class may supply them.
    """

    parameters: dict[str, inspect.Parameter] = field(default_factory=dict)
    hints: dict[str, Any] = field(default_factory=dict)
    open: bool = False
    required: tuple[str, ...] = ()
    _supplies: bool = False

    def add(self, function: Callable) -> bool:
        """Add the parameters of a function; return whether it passes further keyword arguments on."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return True
        hints, passes_on = _hints(function), False
        for parameter in parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.name not in ('self', *self.parameters):
                self.parameters[parameter.name] = parameter
                self.hints[parameter.name] = hints.get(parameter.name, Any)
                if parameter.default is parameter.empty and not self._supplies:
                    self.required += (parameter.name,)
        kinds = {parameter.kind for parameter in parameters}
        self._supplies |= inspect.Parameter.VAR_POSITIONAL not in kinds  # else: a mixin that passes everything on
        return passes_on


def accepted(target: Callable) -> Accepted:
    """The keyword arguments that a class or function takes.

    Those of a base count if ``**kwargs`` go there and nowhere else; where they go elsewhere, any name may be right.
    """
    found = Accepted()
    if not inspect.isclass(target):
        found.open = found.add(target)
        return found
    passes_on = None
    for owner in target.__mro__:
        if owner in _KEYWORDS_GO_TO:
            found.add(vars(owner)['__init__'])
            for function in _KEYWORDS_GO_TO[owner]:
                found.add(function)
            passes_on = False
            break
        if owner in (object, nn.Module):  # what still arrives here is an error, or was taken out on the way
            break
        if '__init__' in vars(owner):
            passes_on = found.add(vars(owner)['__init__'])
            if not passes_on or not _hands_on_to_base(vars(owner)['__init__']):
                break
    found.open = bool(passes_on)
    return found


@functools.cache
def _hands_on_to_base(init: Callable) -> bool:
    """Whether an ``__init__`` does nothing with its ``**kwargs`` but hand them to that of a base.

    One that takes keys out is not understood: they are in no signature.
    """
    try:
        definition = ast.parse(textwrap.dedent(inspect.getsource(init))).body[0]
    except (OSError, TypeError, SyntaxError):
        return False
    if not isinstance(definition, ast.FunctionDef) or definition.args.kwarg is None:
        return False
    name = definition.args.kwarg.arg

    def count(nodes: Iterable[ast.AST | None]) -> int:
        return sum(isinstance(node, ast.Name) and node.id == name for node in nodes)

    handed_on = looked_up = 0
    for node in ast.walk(definition):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):  # 'key' in kwargs
            looked_up += count(node.comparators)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == '__init__':
            handed_on += count(keyword.value for keyword in node.keywords if keyword.arg is None)
            spread = (keyword.value for keyword in node.keywords if isinstance(keyword.value, ast.Dict))
            handed_on += sum(count(value for key, value in zip(d.keys, d.values) if key is None) for d in spread)
    return handed_on > 0 and count(ast.walk(definition)) == handed_on + looked_up


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation may name what is imported for type checkers only
        return {name: hint for name, hint in getattr(function, '__annotations__', {}).items() if hint in _KINDS}


def wrong_kind(value: Any, hint: Any, default: Any = None, *, strict: bool = False) -> str | None:
    """Whether a value of a config cannot be what an annotation asks for.

    Only kinds are compared (number, text, list, dict), since annotations are often narrower than what is accepted:
    ``None`` fits everywhere, a whole float is an int, and what is not understood fits.

    Args:
        value: The value.
        hint: The annotation.
        default: The parameter's default, which always fits.
        strict: Whether a list or dict in place of a number, a list in place of a dict and a fraction in place of a
            whole number are wrong. MMPretrain's models and transforms take them in many places.

    Returns:
        str | None: What is wanted, e.g. ``'a whole number'``; ``None`` if it fits.
    """
    kinds = _admitted(hint)
    if kinds is None or value is None:
        return None
    kinds, kind = kinds | {_kind(default)}, _kind(value)
    numbers = kinds & _SCALARS
    if kind in kinds or 'other' in (kind, *kinds):
        return None
    if kind in _SCALARS:
        fits = bool(numbers) and not (kind == 'bool' and numbers == {'float'})
        if kind == 'float' and strict and fits:
            fits = 'float' in numbers or value % 1 == 0 or not math.isfinite(value)  # non-finite: judged elsewhere
    elif kind == 'str':
        fits = 'list' in kinds or not (numbers or 'dict' in kinds)
    else:
        fits = not strict
    return None if fits else _wanted(kinds)


def _admitted(hint: Any) -> set[str] | None:
    """The kinds of an annotation; ``None`` if it is not understood."""
    if hint in _KINDS:
        return {_KINDS[hint]}
    origin = typing.get_origin(hint)
    if origin in (Union, UnionType):
        parts = [_admitted(part) for part in typing.get_args(hint)]
        return None if None in parts else set().union(*parts)
    if inspect.isclass(origin or hint):
        if issubclass(origin or hint, Mapping):
            return {'dict'}
        if issubclass(origin or hint, Sequence):
            return {'list'}
    return None


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return 'dict'
    if isinstance(value, list | tuple):
        return 'list'
    return _KINDS.get(type(value), 'other')


def _wanted(kinds: set[str]) -> str:
    words = {'str': 'text', 'dict': 'a dict', 'list': 'a list'}
    wanted = ['a number' if 'float' in kinds else 'a whole number'] if kinds & {'int', 'float'} else []
    wanted += ['True or False'] if 'bool' in kinds else []
    return ' or '.join([*wanted, *(word for kind, word in words.items() if kind in kinds)])
