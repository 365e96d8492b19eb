"""The parts of ``benchmarks/gpu.py``: what needs a GPU, with a small twin of every network for a CPU."""
