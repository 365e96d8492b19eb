"""Why MMEngine could not merge a config with its bases, and what to write instead."""

from collections.abc import Mapping

from mmengine.config import Config


def inheritance_failure(error: BaseException) -> str | None:
    """Explain an exception that MMEngine raises while it merges config files.

    MMEngine raises ``KeyError`` and ``TypeError`` for many mistakes. The frames of its two merging functions on the
    traceback hold the keys, so the text of the exception is not needed.

    Args:
        error: Any exception from ``Config.fromfile`` or ``Config.merge_from_dict``.

    Returns:
        str | None: One line that names the key and the form that works; ``None`` for another cause.
    """
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    read, merge = Config._file2dict.__code__, Config._merge_a_into_b.__code__
    last = frames[-1] if frames else None
    for frame in reversed(frames):  # the innermost file
        duplicates = frame.f_locals.get('duplicate_keys') if frame.f_code is read else None
        if duplicates and isinstance(error, KeyError):
            keys = ', '.join(sorted(duplicates))
            return (
                f'{keys}: two of its bases set it, the second is {frame.f_locals["base_cfg_path"]}; MMEngine merges a '
                'base with its child only. Keep one of them in _base_ and set these keys in this file '
                '(docs/configs.md, "In another project")'
            )
    if last is not None and last.f_code is merge and isinstance(error, TypeError):
        key, value, base = (last.f_locals.get(name) for name in 'kvb')
        if isinstance(value, Mapping) and isinstance(base, Mapping) and isinstance(base.get(key), list | tuple):
            return (
                f'{key}: a dict here, but a list in its base, and MMEngine merges dicts only; write '
                f'{key} = [dict(...)], which replaces the list, or dict(_delete_=True, ...)'
            )
    return None
