"""One number for the values of a set of tensors, whatever file they are in."""

import hashlib
from collections.abc import Mapping

import numpy as np


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and float32 values (little-endian), in the order of the names; hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name], dtype='<f4')
        digest.update(f'{name} {value.shape}\n'.encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
