"""Numbers as text: bytes in IEC units (1 MiB is 1,048,576 bytes), a mean with its interval, times; text of others."""

import math
import re

from .errors import UserError

UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB')


def printable(text: str) -> str:
    """Text of others as one line: what a terminal would obey, or UTF-8 cannot hold, is shown as ``\\x1b`` and so on."""
    line = ' '.join(text.split())
    if line.isprintable():
        return line
    return ''.join(char if char.isprintable() else char.encode('unicode_escape').decode() for char in line)


def format_bytes(count: float) -> str:
    """``17,077,043`` -> ``'16.3 MiB'``: three significant digits, in the largest unit that leaves at least 1."""
    scale, unit = byte_unit(count)
    value = count / scale
    digits = 0 if scale == 1 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f'{value:.{digits}f} {unit}'


def byte_unit(size: float) -> tuple[int, str]:
    """The unit for an axis or a column whose largest value is ``size`` bytes: ``2**31`` -> ``(2**30, 'GiB')``.

    Returns:
        tuple: Bytes per unit, and its name: the one that :func:`format_bytes` gives ``size``.
    """
    unit = 0
    while abs(size) >= 1023.5 * 1024**unit and unit < len(UNITS) - 1:
        unit += 1
    return 1024**unit, UNITS[unit]


def format_mean(mean: float, ci90: float | None) -> str:
    """``84.1 ± 0.9``: a mean and the half-width of its 90 % interval; ``84.1`` if that is ``None`` or NaN."""
    return f'{mean:.1f}' + ('' if ci90 is None or math.isnan(ci90) else f' ± {ci90:.1f}')


def parse_bytes(text: str) -> int:
    """``'8GiB'``, ``'8.5 GB'`` (decimal, 8.5e9) or a number of bytes -> bytes.

    Raises:
        UserError: It is not a positive number with one of these units: B, KB, MB, GB, TB, KiB, MiB, GiB, TiB.
    """
    found = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B|B)?\s*', text, re.IGNORECASE)
    size = 0.0
    if found is not None:
        exponent = 1 + 'KMGT'.index(found[2].upper()) if found[2] else 0
        size = float(found[1]) * (1024 if found[3] else 1000) ** exponent
    if size < 1:
        raise UserError(f'{text!r} is not a memory size; write it like 8GiB or 16GB.')
    return int(size)


def format_duration(seconds: float) -> str:
    """``42`` -> ``'42 s'``, ``750`` -> ``'12 min 30 s'``, ``7500`` -> ``'2 h 5 min'``: the two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f'{seconds:.2g} s' if seconds < 10 else f'{whole} s'
    minutes, rest = divmod(whole, 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f'{hours} h {left} min' if left else f'{hours} h'
    return f'{minutes} min {rest} s' if rest else f'{minutes} min'


def parse_duration(text: str) -> float:
    """``'2h'``, ``'1h30m'``, ``'90min'``, ``'45s'``, ``'1.5h'`` -> seconds.

    Raises:
        UserError: It is not a positive time with units.
    """
    units = {'d': 86400, 'h': 3600, 'm': 60, 'min': 60, 's': 1}
    parts = re.findall(r'(\d+(?:\.\d+)?)\s*(min|[dhms])\s*', text.lower())
    if not parts or ''.join(text.lower().split()) != ''.join(number + unit for number, unit in parts):
        raise UserError(f'{text!r} is not a time; write it like 2h, 1h30m, 45min or 90s.')
    seconds = sum(float(number) * units[unit] for number, unit in parts)
    if seconds <= 0:
        raise UserError(f'{text!r} is not a positive time; write it like 2h, 1h30m, 45min or 90s.')
    return seconds
