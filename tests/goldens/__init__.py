"""Numbers from the methods' own authors: inputs, outputs, gradients, and a harness that runs bigcl on them."""
