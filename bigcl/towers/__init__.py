"""Towers: encoders of one kind of input. `tower(x, mask=None, rng=None) -> Encoding`; without `rng` a tower is deterministic."""

from bigcl.towers.encoding import Encoding

__all__ = ["Encoding"]
