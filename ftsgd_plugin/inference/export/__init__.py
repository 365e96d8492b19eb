"""Take the weights of a finished run to another library: one module per target, one function for all.

An export is written into a temporary directory, loaded back by the library that it is for, and compared with the run's
logits; only then does it get its name.
"""

from .driver import export_run, target_names

__all__ = ['export_run', 'target_names']
