"""Towers: encoders of one kind of input. `tower(x, mask=None, rng=None) -> Encoding`; `rng` holds a random key for each
example, and without it nothing is random."""

from bigcl.towers.encoding import Encoding

__all__ = ["Encoding"]
