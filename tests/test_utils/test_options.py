"""Types of options: argparse refuses what is not such a number."""

import argparse

import pytest

from ftsgd_plugin.utils.options import count, positive_int, seed_number


@pytest.mark.parametrize(
    'kind, good, bad',
    [
        (count, {'0': 0, '12': 12}, ['-1', '1.5', '', 'two', '1e3']),
        (positive_int, {'1': 1}, ['0', '-1', '1.0']),
        (seed_number, {'0': 0, '4294967295': 2**32 - 1}, ['-1', '4294967296']),
    ],
)
def test_numbers(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is not a "):
            kind(text)
