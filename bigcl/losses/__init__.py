"""Losses: pure functions of arrays over the global batch: embeddings, scale, labels, weights go in, a scalar out."""

from bigcl.losses.barlow import barlow
from bigcl.losses.cwcl import cwcl
from bigcl.losses.dcl import dcl
from bigcl.losses.distillation import similarity_distillation
from bigcl.losses.infonce import infonce
from bigcl.losses.negative_cosine import negative_cosine
from bigcl.losses.one_to_k import one_to_k
from bigcl.losses.pairwise import pairwise, pairwise_views
from bigcl.losses.sigmoid import sigmoid
from bigcl.losses.similarity import l2_normalize
from bigcl.losses.swapped import swapped
from bigcl.losses.temporal import temporal_nce
from bigcl.losses.uniformity import alignment, cross_uniformity, uniformity
from bigcl.losses.variance_covariance import variance_covariance
from bigcl.losses.views import views_infonce

__all__ = [
    "alignment",
    "barlow",
    "cross_uniformity",
    "cwcl",
    "dcl",
    "infonce",
    "l2_normalize",
    "negative_cosine",
    "one_to_k",
    "pairwise",
    "pairwise_views",
    "sigmoid",
    "similarity_distillation",
    "swapped",
    "temporal_nce",
    "uniformity",
    "variance_covariance",
    "views_infonce",
]
