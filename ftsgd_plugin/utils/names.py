"""Names that a user has written: which known one was meant, and which class a ``type`` of a config names."""

import difflib
from collections.abc import Iterable
from typing import Any

NEAR = 0.85  # difflib ratio: one wrong, missing or doubled letter in a name of seven


def near(word: str, known: Iterable[str], *, cutoff: float = NEAR) -> list[str]:
    """The known names that ``word`` may be a misspelling of, the nearest first; upper and lower case are alike."""
    matcher, ratios = difflib.SequenceMatcher(b=word.lower()), {}
    for name in set(known):
        matcher.set_seq1(name.lower())
        if matcher.real_quick_ratio() >= cutoff and matcher.quick_ratio() >= cutoff and matcher.ratio() >= cutoff:
            ratios[name] = matcher.ratio()
    best = max(ratios.values(), default=0)
    return sorted((name for name in ratios if ratios[name] > best - 0.05), key=lambda name: (-ratios[name], name))[:3]


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.65, shown: int = 12) -> str:
    """The end of a message about an unknown name.

    Args:
        word: The name.
        known: Those that exist.
        cutoff: How alike a suggestion must be, 0 to 1 (``difflib``).
        shown: If none is near: the most names to list.

    Returns:
        str: ``did you mean 'lr'?``, else a list of what there is.
    """
    known = sorted(set(known))
    if close := near(word, known, cutoff=cutoff):
        return f'did you mean {" or ".join(map(repr, close))}?'
    if not known:
        return 'there is none to name.'
    return f'known: {", ".join(known[:shown])}{", ..." if len(known) > shown else ""}.'


def type_name(value: Any) -> str:
    """The bare class name of a config's ``type``, for comparisons.

    Args:
        value: A registered name (``'mmpretrain.GroupAccuracy'``), an import path (as a config in the newer style is
            dumped), a class or function (as it is read), or a config with a ``type``.

    Returns:
        str: ``'GroupAccuracy'``; ``''`` if nothing is named.
    """
    if hasattr(value, 'get') and not isinstance(value, type):
        value = value.get('type')
    if value is None:
        return ''
    return (value if isinstance(value, str) else getattr(value, '__name__', str(value))).rpartition('.')[2]
