"""The order of examples as a pure function of (seed, position): the data position of a run is its step number."""

import hashlib

import numpy as np
from jaxtyping import Int64, UInt64

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_STRIDE = 0xD1B54A32D192ED03  # between the hashes of two rounds: far, so that no two rounds share inputs
_ROUNDS = 8
_LEAST_BITS = 6  # a network over fewer would not mix; tiny sources walk further instead


def permute(position: Int64[np.ndarray, "*n"], size: int, seed: int) -> Int64[np.ndarray, "*n"]:
    """Position in an endless shuffled stream -> index in [0, size).

    Positions [e * size, (e + 1) * size) are epoch e, and each epoch goes through its own permutation of range(size).
    The permutation is a Feistel network over the smallest power of two that holds `size`, followed until it lands
    inside the range (cycle walking; Black & Rogaway 2002, "Ciphers with arbitrary finite domains"): O(1) memory, no
    state, any position at once.
    """
    position = np.asarray(position, np.int64)
    if size < 1:
        raise ValueError(f"cannot order a source of {size} examples")
    flat = position.ravel()
    bits = max(_LEAST_BITS, (size - 1).bit_length())
    keys = _mix((flat // size).astype(np.uint64) ^ _mix(np.array([seed & _MASK], np.uint64)))
    index = _feistel((flat % size).astype(np.uint64), keys, bits)
    outside = np.flatnonzero(index >= size)
    while outside.size:
        index[outside] = _feistel(index[outside], keys[outside], bits)
        outside = outside[index[outside] >= size]
    return index.astype(np.int64).reshape(position.shape)


def batch_indices(step: int, batch: int, size: int, seed: int, shuffle: bool = True) -> Int64[np.ndarray, " batch"]:
    """Source indices of the global batch of one step: row r is position step * batch + r of the stream."""
    position = step * batch + np.arange(batch, dtype=np.int64)
    return permute(position, size, seed) if shuffle else position % size


def batch_hash(indices: Int64[np.ndarray, " batch"]) -> str:
    """16 hex digits that name a batch by the indices of its examples, in order."""
    return hashlib.sha256(np.asarray(indices).astype("<i8").tobytes()).hexdigest()[:16]


def _mix(x: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """The finalizer of SplitMix64 (Steele et al. 2014): a bijection in which every input bit moves every output bit."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return x ^ (x >> np.uint64(31))


def _feistel(x: UInt64[np.ndarray, " n"], keys: UInt64[np.ndarray, " n"], bits: int) -> UInt64[np.ndarray, " n"]:
    """A keyed bijection of [0, 2**bits): the low and the high part are XORed in turn with a hash of the other."""
    low_bits = bits // 2
    low_mask, high_mask = np.uint64((1 << low_bits) - 1), np.uint64((1 << (bits - low_bits)) - 1)
    low, high = x & low_mask, x >> np.uint64(low_bits)
    for turn in range(0, _ROUNDS, 2):
        low = low ^ (_mix(high + keys + np.uint64(turn * _STRIDE & _MASK)) & low_mask)
        high = high ^ (_mix(low + keys + np.uint64((turn + 1) * _STRIDE & _MASK)) & high_mask)
    return (high << np.uint64(low_bits)) | low
