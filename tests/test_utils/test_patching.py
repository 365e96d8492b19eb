"""Replacement of attributes at run time."""

import math
import sys
import types

import pytest

from ftsgd_plugin.utils.patching import replaced, stand_in


class Base:
    def call(self) -> str:
        return 'base'

    @property
    def text(self) -> str:
        return 'computed'


class Child(Base):
    pass


def test_a_method_of_an_instance_is_replaced_within_the_block_only():
    one, other = Base(), Base()
    with replaced(one, 'call', lambda: 'replaced'):
        assert (one.call(), other.call()) == ('replaced', 'base')
    assert one.call() == 'base' and vars(one) == {}


def test_a_property_of_a_class_and_a_function_of_a_module_come_back():
    own, floor = vars(Base)['text'], math.floor
    with replaced(Base, 'text', 'fixed'), replaced(math, 'floor', lambda x: 'floor'):
        assert Base().text == 'fixed' and math.floor(1.5) == 'floor'
    assert vars(Base)['text'] is own and math.floor is floor


def test_an_inherited_attribute_is_hidden_not_overwritten():
    with replaced(Child, 'call', lambda self: 'replaced'):
        assert (Child().call(), Base().call()) == ('replaced', 'base')
    assert 'call' not in vars(Child)


def test_an_exception_restores_the_attribute():
    one = Base()
    with pytest.raises(ZeroDivisionError), replaced(one, 'call', lambda: 1 / 0):
        one.call()
    assert one.call() == 'base'


def test_nested_replacements_are_undone_one_by_one():
    one = Base()
    outer = replaced(one, 'call', lambda: 'outer')
    inner = replaced(one, 'call', lambda: 'inner')
    inner.undo()
    assert one.call() == 'outer'
    outer.undo()
    assert one.call() == 'base'


def test_undo_leaves_a_value_that_was_set_later_and_acts_once():
    one = Base()
    patch = replaced(one, 'call', lambda: 'replaced')
    one.call = lambda: 'later'
    patch.undo()
    assert one.call() == 'later'

    first = replaced(one, 'call', lambda: 'first')
    value = one.call
    first.undo()
    one.call = value
    first.undo()
    assert one.call is value


def test_an_attribute_that_does_not_exist_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'shout'"):
        replaced(Base(), 'shout', None)


@pytest.mark.parametrize('module', [types.ModuleType('no_such_module'), None], ids=['module', 'none'])
def test_a_module_stands_in_within_the_block_only(module):
    with stand_in('no_such_module', module):
        if module is None:
            with pytest.raises(ModuleNotFoundError):
                __import__('no_such_module')
        else:
            assert __import__('no_such_module') is module
    assert 'no_such_module' not in sys.modules


def test_nothing_stands_in_for_an_imported_module():
    with stand_in('math', None):
        assert __import__('math') is math
    assert sys.modules['math'] is math
