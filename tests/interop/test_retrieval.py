"""A run of the quick start, exported, finds the same emoji there: recall from open_clip and transformers alone."""

import pytest

for package in ("torch", "transformers", "open_clip", "timm"):
    pytest.importorskip(package, reason=f"runs {package}: pip install '.[interop-test]'")

from benchmarks.exported import LIBRARIES, METRICS, found_by, logged  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("library", LIBRARIES)
def test_same_recall(library, workdir, tmp_path):
    found = found_by(library, workdir, tmp_path / "out")
    assert list(found) == METRICS
    assert found == pytest.approx(logged(workdir)) and 0 < found["text_to_image/recall@10"] < 1
