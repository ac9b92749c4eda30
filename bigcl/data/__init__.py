"""Data: sources (random access by index), transforms (one example at a time), order, and the batches of one process."""
