"""The parts that messages share."""

import pytest

from ftsgd_plugin.utils.errors import UserError, check_parent, one_line


@pytest.mark.parametrize(
    'error, options, expected',
    [
        (ValueError('two\n  lines'), {}, 'two lines'),
        (ValueError('first\nadvice'), dict(first=True), 'first'),
        (ValueError('a long text'), dict(limit=6), 'a long'),
        (AssertionError(), dict(first=True), 'AssertionError'),
        ('', {}, ''),
    ],
)
def test_an_exception_is_one_line(error, options, expected):
    assert one_line(error, **options) == expected


def test_a_missing_directory_is_named_before_the_work(tmp_path):
    check_parent(tmp_path / 'out.json')
    with pytest.raises(UserError, match=r'^--out out\.json: its directory does not exist; create it first\.$'):
        check_parent(tmp_path / 'missing/out.json', '--out out.json')
