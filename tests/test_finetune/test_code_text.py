"""Values as the text of a config: Python reads back what was written, on lines that fit."""

import pytest

from ftsgd_plugin.finetune.code_text import Name, assignment, code_text

VALUES = [
    dict(type='A', number=1e-3, flag=None, empty={}, pair=('x',), nothing=()),
    {'class': 1, 'two words': [1, 2.5], 'plain': {'a': True}},
    [dict(type='Long', value='x' * 60), dict(type='Long', value='y' * 60)],
    {'names': tuple(f"class {i} of the 'animals'" for i in range(60)), 'inner': [[i] * 30 for i in range(4)]},
    [],
]


@pytest.mark.parametrize('value', VALUES)
def test_python_reads_back_what_was_written(value):
    scope = {}
    text = assignment('value', value)
    exec(text, scope)
    assert scope['value'] == value
    assert max(map(len, text.splitlines())) <= 120


def test_a_name_is_written_without_quotes():
    value = {'pipeline': Name('test_pipeline'), 'split': 'val'}
    assert code_text(value) == "dict(pipeline=test_pipeline, split='val')"
