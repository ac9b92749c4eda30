"""One module a slug (dashes become underscores) with `FUNCTIONS`: from the name of a function in `meta.json` to bigcl's."""
