"""The towers are those of OpenAI CLIP and of SigLIP: with the weights of transformers or open_clip they give the same features, logits, loss and gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl.losses import l2_normalize
from bigcl.state import Skeleton
from bigcl.tasks.two_tower import TwoTower

for package in ("torch", "transformers", "open_clip"):
    if package != "torch":
        continue
