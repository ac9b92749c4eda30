"""The outside world: what other libraries call the same weights, how they lay them out, and what their files say of
preprocessing and tokenizer. Nowhere else does bigcl know of them."""
