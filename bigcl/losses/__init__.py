"""Losses: pure functions of arrays over the global batch: embeddings, scale, labels, weights go in, a scalar out."""

from bigcl.losses.infonce import infonce
from bigcl.losses.sigmoid import sigmoid
from bigcl.losses.similarity import l2_normalize

__all__ = ["infonce", "l2_normalize", "sigmoid"]
