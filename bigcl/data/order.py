"""The order of examples as a pure function of (seed, position): the data position of a run is its step number."""

import dataclasses
import hashlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int64, UInt64

from bigcl.registry import ConfigError

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_STRIDE = 0xD1B54A32D192ED03  # between the hashes of two rounds: far, so that no two rounds share inputs
_ROUNDS = 8
_LEAST_BITS = 6  # a network over fewer would not mix; tiny sources walk further instead


class Order(Protocol):
    """Which example of a source each position of an endless stream is."""

    def __call__(self, position: Int64[np.ndarray, " n"], /) -> Int64[np.ndarray, " n"]: ...

    def replacement(self, index: int, position: int, attempt: int, /) -> int:
        """The example that stands in for example `index`, a bad record found at a position by so many attempts."""
        ...


def make_order(source: Any, *, seed: int, batch: int, **options: Any) -> Order:
    """The order that a source makes itself (a mixture), or `Shuffle`, whose options these are."""
    if hasattr(source, "order"):
        return source.order(seed=seed, batch=batch, **options)
    return Shuffle(len(source), seed, **options)


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """The order of a source of `size` examples: each epoch its own permutation.

    block: None, or how many examples lie together, see `permute_blocks`.
    window: how many blocks are mixed at a time.
    """

    size: int
    seed: int
    shuffle: bool = True
    block: int | None = None
    window: int = 16

    def __post_init__(self) -> None:
        for key, value in (("block", self.block), ("window", self.window)):
            if value is not None and value < 1:
                raise ConfigError(f"data.{key}: expected 1 or more, got {value}")

    def __call__(self, position: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        if not self.shuffle:
            return np.asarray(position, np.int64) % self.size
        if self.block is None:
            return permute(position, self.size, self.seed)
        return permute_blocks(position, self.size, self.seed, self.block, self.window)

    def replacement(self, index: int, position: int, attempt: int) -> int:
        """Any example, by chance: neighbours of a bad record are often as bad."""
        return int(_mix(_hash(self.seed, position) + np.uint64(attempt))[0] % np.uint64(self.size))


@dataclasses.dataclass(frozen=True)
class Interleave:
    """The order of a mixture: the positions are dealt to the sources by their shares, and each source goes through its
    own order, at its own pace.

    The first source takes n * share, rounded, of the first n positions, the second likewise of those that remain, and
    so on: how many of its positions lie before any other is a closed form, and off by at most half of one for each
    source.

    orders: of each source.
    first: index of the mixture at which each source begins.
    shares: of each source among itself and those after it; the last one is 1. Their denominators are at most 2**31.
    unit: how many positions in a row are dealt together.
    """

    orders: Sequence[Order]
    first: Sequence[int]
    shares: Sequence[Fraction]
    unit: int = 1

    def counts(self, units: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "sources n"]:
        """How many of the first n units each source gives."""
        taken, rest = [], np.asarray(units, np.int64)
        for share in self.shares:
            whole, part = np.divmod(rest, share.denominator)  # so that no product leaves 64 bits
            rounded = (part * share.numerator + share.denominator // 2) // share.denominator
            taken.append(whole * share.numerator + rounded)
            rest = rest - taken[-1]
        return np.stack(taken)

    def __call__(self, position: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        unit, inside = np.divmod(np.asarray(position, np.int64), self.unit)
        before = self.counts(unit)
        which = np.argmax(self.counts(unit + 1) > before, axis=0)
        index = np.empty_like(unit)
        for number, (order, first) in enumerate(zip(self.orders, self.first, strict=True)):
            mine = which == number
            index[mine] = first + order(before[number, mine] * self.unit + inside[mine])
        return index

    def replacement(self, index: int, position: int, attempt: int) -> int:
        """Another example of the same source, so that the shares stay."""
        number = int(np.searchsorted(self.first, index, "right")) - 1
        first = self.first[number]
        return first + self.orders[number].replacement(index - first, position, attempt)


def permute(position: Int64[np.ndarray, "*n"], size: int, seed: int) -> Int64[np.ndarray, "*n"]:
    """Position in an endless shuffled stream -> index in [0, size).

    Positions [e * size, (e + 1) * size) are epoch e, and each epoch goes through its own permutation of range(size).
    The permutation is a Feistel network over the smallest power of two that holds `size`, followed until it lands
    inside the range (cycle walking; Black & Rogaway 2002, "Ciphers with arbitrary finite domains"): O(1) memory, no
    state, any position at once.
    """
    epoch, place = _epochs(position, size)
    return _scramble(place, _hash(seed, epoch), size).reshape(np.shape(position))


def permute_blocks(
    position: Int64[np.ndarray, "*n"], size: int, seed: int, block: int, window: int
) -> Int64[np.ndarray, "*n"]:
    """As `permute`, for data that are read faster in pieces: within an epoch, the blocks of `block` successive indices
    come in a random order, and `window` of them at a time have their examples mixed.

    Also a bijection in every epoch, in O(1) memory. The last block may be a part; the positions that fall on what it
    lacks, fewer than `block` in an epoch, go on by cycle walking, and are read out of turn.
    """
    epoch, place = _epochs(position, size)
    index = _scramble_blocks(place, epoch, size, seed, block, window)
    outside = np.flatnonzero(index >= size)
    while outside.size:
        index[outside] = _scramble_blocks(index[outside], epoch[outside], size, seed, block, window)
        outside = outside[index[outside] >= size]
    return index.reshape(np.shape(position))


def batch_hash(indices: Int64[np.ndarray, " batch"]) -> str:
    """16 hex digits that name a batch by the indices of its examples, in order."""
    return hashlib.sha256(np.asarray(indices).astype("<i8").tobytes()).hexdigest()[:16]


def _epochs(position: Int64[np.ndarray, "*n"], size: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Epoch and place in it."""
    if size < 1:
        raise ValueError(f"cannot order a source of {size} examples")
    return np.divmod(np.asarray(position, np.int64).ravel(), size)


def _hash(seed: int, *numbers: Int64[np.ndarray, " n"] | int) -> UInt64[np.ndarray, " n"]:
    """A key for each tuple of numbers."""
    key = _mix(np.array([seed & _MASK], np.uint64))
    for number in numbers:
        key = _mix(np.asarray(number).astype(np.uint64) ^ key)
    return key


def _scramble_blocks(
    place: Int64[np.ndarray, " n"], epoch: Int64[np.ndarray, " n"], size: int, seed: int, block: int, window: int
) -> Int64[np.ndarray, " n"]:
    """A bijection of [0, block * blocks), which may be a little more than `size`."""
    blocks, seed = -(-size // block), seed + _STRIDE
    turn, inside = np.divmod(place, block * window)
    keys, last = _hash(seed, epoch, turn + 1), blocks // window
    for mine, width in ((turn < last, window), (turn == last, blocks % window)):
        inside[mine] = _scramble(inside[mine], keys[mine], block * width)
    slot, offset = np.divmod(turn * block * window + inside, block)
    return _scramble(slot, _hash(seed, epoch, 0), blocks) * block + offset


def _scramble(place: Int64[np.ndarray, " n"], keys: UInt64[np.ndarray, " n"], size: int) -> Int64[np.ndarray, " n"]:
    """A keyed bijection of [0, size)."""
    bits = max(_LEAST_BITS, (size - 1).bit_length())
    index = _feistel(place.astype(np.uint64), keys, bits)
    outside = np.flatnonzero(index >= size)
    while outside.size:
        index[outside] = _feistel(index[outside], keys[outside], bits)
        outside = outside[index[outside] >= size]
    return index.astype(np.int64)


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
