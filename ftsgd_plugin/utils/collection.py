"""Python's search for reference cycles, while a program imports its libraries."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def imports_set_aside() -> Iterator[None]:
    """Import within the block: no search for reference cycles goes over what it makes, neither there nor later.

    torch, MMEngine and what they import are some 400,000 objects that live as long as the program. Python would go over
    all of them several times while they are imported, and again whenever a run has made enough objects of its own. In a
    process that has torch already, which may hold cycles of its user's, nothing is done.

    Examples:
        >>> with imports_set_aside():
        >>>     from ftsgd_plugin.runner.run import train
    """
    if 'torch' in sys.modules:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
