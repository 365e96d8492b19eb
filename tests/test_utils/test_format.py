"""Bytes in IEC units; a mean with its interval."""

import pytest

from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.format import byte_unit, format_bytes, format_duration, format_mean, parse_bytes, parse_duration


@pytest.mark.parametrize(
    'count, text',
    [
        (0, '0 B'),
        (1023, '1023 B'),
        (1024, '1.00 KiB'),
        (17_077_043, '16.3 MiB'),
        (2**30 - 1, '1.00 GiB'),
        (362_570_000, '346 MiB'),
        (-(2**21), '-2.00 MiB'),
        (5 * 2**50, '5120 TiB'),
    ],
)
def test_three_significant_digits(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize('size', [0, 1023, 1024, 2**20 - 1, 2**20, 900 * 2**20, 2**30, 5 * 2**50])
def test_the_unit_of_an_axis_is_that_of_its_largest_value(size):
    scale, unit = byte_unit(size)
    number, name = format_bytes(size).split()
    assert name == unit and float(number) == pytest.approx(size / scale, rel=5e-3)


@pytest.mark.parametrize(
    'text, count',
    [('8GiB', 8 * 2**30), ('8.5 GB', 8_500_000_000), ('1000', 1000), ('1 kib', 1024), ('2TB', 2 * 10**12), ('7B', 7)],
)
def test_parsing(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize('text', ['', 'GiB', '-1GiB', '0', '0.1B', '16 XB', '1e3', 'nan', '1 GiB extra'])
def test_other_text_is_refused(text):
    with pytest.raises(UserError, match='is not a memory size; write it like 8GiB or 16GB'):
        parse_bytes(text)


@pytest.mark.parametrize('ci90, text', [(0.94, '84.1 ± 0.9'), (None, '84.1'), (float('nan'), '84.1')])
def test_mean_with_its_interval(ci90, text):
    assert format_mean(84.14, ci90) == text


@pytest.mark.parametrize(
    'seconds, text',
    [(0.25, '0.25 s'), (42, '42 s'), (59.6, '1 min'), (750, '12 min 30 s'), (7200, '2 h'), (7500, '2 h 5 min')],
)
def test_durations_have_their_two_largest_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize('text, reason', [('0s', 'not a positive time'), ('2', 'not a time'), ('1h x', 'not a time')])
def test_other_text_is_no_duration(text, reason):
    with pytest.raises(UserError, match=f'is {reason}; write it like 2h'):
        parse_duration(text)
