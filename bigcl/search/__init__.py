"""Nearest items of embedded data: an index, queries by text or picture, and a page to look at them."""
