"""What tests of data share."""

import pytest


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache of prepared data for the tests of one file alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGCL_DATA", str(tmp_path_factory.mktemp("cache")))
        yield
