"""Random numbers without state: they depend on a seed and integer keys only, never on order or neighbours."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def hashed_uniform(seed: int, purpose: str, *keys: npt.ArrayLike) -> Floats:
    """Uniform numbers in [0, 1), one for each element of the broadcast integer `keys`.

    Mixing is the finaliser of splitmix64 (Steele, Lea, Flood 2014) applied after each key; `purpose` separates uses
    of one seed.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    state = np.broadcast_to(np.uint64(int.from_bytes(digest[:8], "little")), np.broadcast_shapes(*map(np.shape, keys)))
    with np.errstate(over="ignore"):
        for key in keys:
            state = _mixed(
                state ^ _mixed(np.asarray(key, dtype=np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
            )
    return np.asarray((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """A generator of its own for (seed, purpose, keys): drawing from one never changes another."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{','.join(map(str, keys))}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _mixed(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
