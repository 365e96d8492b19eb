"""Which dict of a config MMEngine cannot build, and why."""

import inspect
import sys
import traceback
from types import CodeType

from .errors import one_line


def build_failure(error: BaseException) -> str | None:
    """Explain an exception that MMEngine's ``build_from_cfg`` let out because of what a config says.

    MMEngine raises the same types for a mistake in a config and for a bug in a class; only the text differs. Here the
    innermost frame of ``build_from_cfg`` on the traceback decides: it holds the class and its arguments.

    Args:
        error: Any exception.

    Returns:
        str | None: One line that names the type and the key; ``None`` for an exception with another cause.
    """
    build_functions = sys.modules.get('mmengine.registry.build_functions')
    if build_functions is None:
        return None
    building, raised_here, trace, innermost = None, False, error.__traceback__, None
    while trace is not None:
        innermost = trace
        if trace.tb_frame.f_code is build_functions.build_from_cfg.__code__:
            building, raised_here = trace.tb_frame.f_locals, trace.tb_next is None
        trace = trace.tb_next
    if building is None:
        return None
    cls, name = building.get('obj_cls'), building.get('obj_type')
    if cls is None and raised_here and isinstance(error, KeyError) and isinstance(name, str):
        registry = building['registry']
        return (
            f'type={name!r} is not in the {registry.scope}::{registry.name} registry; '
            'correct the name or add custom_imports.'
        )
    if not inspect.isclass(cls):
        return None
    mismatch = _mismatch(cls, building['args'], error, raised_here) if isinstance(error, TypeError) else None
    if mismatch:
        return f'type={cls.__name__!r}: {mismatch}; correct the keys of that dict in the config.'
    if isinstance(error, ValueError) and _is_optimizer(cls):
        return f'optim_wrapper.optimizer: {one_line(error)}; correct the value.'
    if isinstance(error, ValueError | AssertionError) and _is_own_code(cls, innermost.tb_frame.f_code):
        reason = one_line(error) if str(error) else traceback.extract_tb(innermost)[-1].line  # a bare assert
        return f'type={cls.__name__!r}: {reason}; correct the values of that dict in the config.'
    return None


def _is_own_code(cls: type, code: CodeType) -> bool:
    """Whether code is that of a method of a class or of its bases: a check of its arguments, not a bug below it."""
    methods = (inspect.unwrap(value) for owner in cls.__mro__ for value in vars(owner).values() if callable(value))
    return any(getattr(method, '__code__', None) is code for method in methods)


def _mismatch(cls: type, arguments: dict, error: TypeError, raised_by_call: bool) -> str | None:
    """How arguments do not fit a constructor, or the constructors that it passes its ``**kwargs`` on to.

    An error from within a constructor may be a bug. It is one of the config only if it names an unknown key.
    """
    if raised_by_call:
        try:
            inspect.signature(cls).bind(**arguments)
        except TypeError as unbound:
            return str(unbound)
    known: set[str] = set()
    for owner in cls.__mro__:
        if '__init__' not in vars(owner):
            continue
        parameters = inspect.signature(owner.__init__).parameters.values()
        known |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    unknown = [key for key in arguments if key not in known and repr(key) in str(error)]
    return f'got an unexpected keyword argument {unknown[0]!r}' if unknown else None


def _is_optimizer(cls: type) -> bool:
    optim = getattr(sys.modules.get('torch'), 'optim', None)
    return optim is not None and issubclass(cls, optim.Optimizer)
