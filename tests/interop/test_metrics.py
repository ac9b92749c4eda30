"""Metrics against torchmetrics."""

import numpy as np
import pytest
import scipy.special

from bigcl.evals.metrics import calibration_error, hit_summary
from tests.evals.test_regions import build, encode, problem

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
detection = pytest.importorskip("torchmetrics.detection")
functional = pytest.importorskip("torchmetrics.functional")


@pytest.mark.parametrize("seed", range(3))
def test_equals_torchmetrics(seed):
    truths, proposals = problem(seed)
    evaluator = build(truths, proposals)
    numbers = evaluator.run(encode)
    (boxes, picture, label), (near, where, x) = truths, proposals
    scores = evaluator.artifacts["scores"]
    np.testing.assert_allclose(scores, scipy.special.softmax(10 * x[:, :4], axis=1), atol=1e-5)
    recalls = np.linspace(0, 1, 101).tolist()  # COCO's; torchmetrics' own default is rounded to float32
    peer = detection.MeanAveragePrecision(rec_thresholds=recalls, backend="pycocotools")
    for name in sorted({*picture, *where}):
        mine, theirs = where == name, picture == name
        guess = {
            "boxes": torch.tensor(np.repeat(near[mine], 4, axis=0)).float(),
            "scores": torch.tensor(scores[mine].ravel()),
            "labels": torch.tensor(np.tile(np.arange(4), mine.sum())),
        }
        peer.update([guess], [{"boxes": torch.tensor(boxes[theirs]).float(), "labels": torch.tensor(label[theirs])}])
    wanted = peer.compute()
    assert 0.05 < numbers["map"] < 0.95
    for name in ("map", "map_50", "map_75"):
        assert numbers[name] == pytest.approx(float(wanted[name]), abs=1e-4)


@pytest.mark.parametrize("rows", [1, 50, 333])
def test_calibration_error(rows):
    rng = np.random.default_rng(rows)
    p = scipy.special.softmax(2 * rng.standard_normal((rows, 4)), axis=1).astype(np.float32)
    target = rng.integers(0, 4, rows)
    peer = functional.classification.multiclass_calibration_error(torch.tensor(p), torch.tensor(target), 4, n_bins=15)
    assert calibration_error(p.max(1), p.argmax(1) == target) == pytest.approx(float(peer), abs=1e-6)


def test_gains_and_what_was_found():
    rng = np.random.default_rng(0)
    scores, right = rng.standard_normal((20, 30)), rng.random((20, 30)) < 0.2
    right[:, 0] = True
    hits = np.take_along_axis(right, np.argsort(-scores, 1), 1)[:, :10]
    found = hit_summary(hits, right.sum(1), (1, 5, 10))
    each = [(torch.tensor(s), torch.tensor(r)) for s, r in zip(scores, right, strict=True)]
    gain = np.mean([float(functional.retrieval_normalized_dcg(s, r, top_k=10)) for s, r in each])
    assert found["ndcg@10"] == pytest.approx(gain, abs=1e-6)
    for k in (1, 5, 10):
        recall = np.mean([float(functional.retrieval_recall(s, r, top_k=k)) for s, r in each])
        assert found[f"found@{k}"] == pytest.approx(recall, abs=1e-6)
