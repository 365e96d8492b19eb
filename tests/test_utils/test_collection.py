"""Imports are left out of the search for reference cycles; the cycles of a run are not."""

import gc
import subprocess
import sys

from helpers import ROOT

from ftsgd_plugin.utils.collection import imports_set_aside

PROGRAM = """
import gc
from ftsgd_plugin.utils.collection import imports_set_aside
assert gc.get_freeze_count() == 0
with imports_set_aside():
    assert not gc.isenabled()
    import sqlite3
assert gc.isenabled() and gc.get_freeze_count() > 1000
assert not any(one is vars(sqlite3) for one in gc.get_objects())
class Cycle: pass
import weakref
one = Cycle(); one.own = one; watched = weakref.ref(one); del one
gc.collect()
assert watched() is None
"""


def test_imports_are_set_aside_and_later_cycles_are_found():
    subprocess.run([sys.executable, '-c', PROGRAM], check=True, cwd=ROOT)


def test_a_process_that_has_torch_keeps_its_collection():
    before = gc.get_freeze_count(), gc.isenabled()
    with imports_set_aside():
        assert (gc.get_freeze_count(), gc.isenabled()) == before
    assert (gc.get_freeze_count(), gc.isenabled()) == before
