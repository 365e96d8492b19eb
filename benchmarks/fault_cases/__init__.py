"""The faults of ``benchmarks/faults.py``, by subject; each section yields one outcome per fault."""
