"""bigcl: contrastive pretraining in JAX, for any modality, any objective, any number of chips."""

__version__ = "0.1.0"
