"""Read the config that MMEngine stores as text in every checkpoint, without executing it."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_object_from_string
from torch import nn

from ..utils.errors import UserError

_BUILT = ('model', 'data_preprocessor', 'test_dataloader', 'val_dataloader')  # what is built of such a config
_PACKAGES = ('mmengine', 'mmcv', 'mmpretrain', 'ftsgd_plugin')
_SCOPED = re.compile(r'(mmengine|mmpretrain)\.[A-Za-z_]\w*')  # a scope and a registered name


def config_in(checkpoint: Mapping, path: str) -> Config | None:
    """The config in a checkpoint's meta.

    ``Config.fromstring`` would execute the text. A resolved config is assignments of plain values and ``dict(...)``;
    nothing else is accepted. Neither is a ``type`` that MMEngine would import and call, if it is not a class of a model
    or of the MM packages.

    Args:
        checkpoint: Its content.
        path: The file, for messages; the config takes it as its ``filename``.

    Returns:
        Config | None: ``None`` if the checkpoint stores no config.

    Raises:
        UserError: The text is not a resolved config.
    """
    text = (checkpoint.get('meta') or {}).get('cfg')
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        values = {}
        for statement in ast.parse(text).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f'line {statement.lineno} does not assign to a name')
            values[statement.targets[0].id] = _value(statement.value)
        _refuse_calls([values.get(name) for name in _BUILT])
        return Config(values, cfg_text=text, filename=str(path))
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        raise UserError(
            f'{path}: the config stored in its meta cannot be read ({error}); name the config file and this checkpoint.'
        ) from error


def _refuse_calls(cfg: Any) -> None:
    """Refuse ``type='os.system'``: MMEngine takes an import path for the name of a class."""
    if isinstance(cfg, dict):
        kind = cfg.get('type')
        if isinstance(kind, str) and '.' in kind and not _SCOPED.fullmatch(kind):
            found = get_object_from_string(kind)
            in_packages = kind.split('.')[0] in _PACKAGES
            if not isinstance(found, type) or not (in_packages or issubclass(found, nn.Module)):
                raise ValueError(f'type={kind!r} is not a class of a model')
        cfg = list(cfg.values())
    for one in cfg if isinstance(cfg, list | tuple) else ():
        _refuse_calls(one)


def _value(node: ast.expr) -> Any:
    """The value of a literal, with ``dict(key=value)`` and the numbers ``inf`` and ``nan``."""
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values)}
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(item) for item in node.elts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ('dict', 'set', 'float'):
        if node.func.id == 'dict' and all(keyword.arg for keyword in node.keywords) and len(node.args) <= 1:
            named = {keyword.arg: _value(keyword.value) for keyword in node.keywords}
            return {**dict(*map(_value, node.args)), **named}
        if node.func.id == 'set' and not node.args and not node.keywords:
            return set()
        if node.func.id == 'float' and len(node.args) == 1 and not node.keywords:
            return float(_value(node.args[0]))
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    return ast.literal_eval(node)
