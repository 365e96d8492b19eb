"""Distribution-shift benchmarks, one file each, one record format."""

from .waterbirds import Waterbirds

__all__ = ['Waterbirds']
