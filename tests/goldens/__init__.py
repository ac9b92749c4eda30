"""Numbers from the methods' own authors: stored inputs, outputs and gradients, and a harness that runs bigcl on them."""
