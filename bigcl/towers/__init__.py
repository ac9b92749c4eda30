"""Towers: encoders of one kind of input. `tower(x, mask=None, rng=None) -> Encoding`, deterministic without `rng`."""

from bigcl.towers.encoding import Encoding

__all__ = ["Encoding"]
