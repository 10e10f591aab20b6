"""Vectors as arrays and as bytes.

In the cache a vector is its float32 components, compressed without loss: a text has the same vector whether it
comes from the cache or from the model.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

_LEVEL = 1
_WIDTH = 4


def unit(values: Sequence[float] | NDArray[np.floating], dimensions: int) -> Vector | None:
    """Returns the vector scaled to Euclidean length 1.

    Args:
        values: Components as the model gave them.
        dimensions: How many there must be.

    Returns:
        float32[dimensions], or None when the number of components differs or they have no direction (all zero,
        not finite).
    """
    vector = np.asarray(values, dtype=np.float32)
    if vector.shape != (dimensions,):
        return None
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(length) or length == 0.0:
        return None
    return (vector / length).astype(np.float32)


def pack(vector: Vector) -> bytes:
    """Returns the vector as compressed bytes."""
    return zlib.compress(np.ascontiguousarray(vector, dtype="<f4").tobytes(), _LEVEL)


def unpack(packed: bytes, dimensions: int) -> Vector | None:
    """Returns the vector that was packed; None for bytes that are not a vector of so many components."""
    try:
        raw = zlib.decompress(packed)
    except zlib.error:
        return None
    if len(raw) != dimensions * _WIDTH:
        return None
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)
