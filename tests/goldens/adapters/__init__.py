"""One module a slug (dashes become underscores): `FUNCTIONS`, from a name in `meta.json` to a function of bigcl."""
