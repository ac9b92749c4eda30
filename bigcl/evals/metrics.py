"""Numbers out of ranks, hits and predictions, shared by the evaluators."""

import importlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

from bigcl.registry import ConfigError


def sklearn(module: str) -> Any:
    """A module of scikit-learn. Raises ImportError that names the extra."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError('this evaluator needs scikit-learn: pip install "bigcl[evals]"') from error


def rank_summary(rank: Int[np.ndarray, "n"], ks: Sequence[int]) -> dict[str, float]:
    """Recall at each k, median, and mean reciprocal of ranks that start at 1."""
    return {
        **{f"recall@{k}": mean(rank <= k) for k in ks},
        "median_rank": float(np.median(rank)) if len(rank) else float("nan"),
        "mean_reciprocal_rank": mean(1 / rank),
    }


def hit_summary(hits: Bool[np.ndarray, "q k"], positives: Int[np.ndarray, "q"], ks: Sequence[int]) -> dict[str, float]:
    """nDCG at the largest k, and where some have several positives, the share of them among the first k, and the share
    of the first k that they are.

    hits: which of the first items of a query are positives.  positives: how many it has, one or more.

    With binary gains, the discounted gain of the hits over that of all positives in front (Järvelin and Kekäläinen
    2002): `sum_{i hit} 1 / log2(1 + i)` over `sum_{i <= min(k, P)} 1 / log2(1 + i)`.
    """
    k = max(ks)
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(positives, k) - 1]
    width = min(k, hits.shape[1])
    numbers = {f"ndcg@{k}": mean((hits[:, :width] @ discount[:width]) / ideal)}
    if (positives > 1).any():
        numbers |= {f"found@{j}": mean(hits[:, :j].sum(1) / positives) for j in ks}
        numbers |= {f"precision@{j}": mean(hits[:, :j].sum(1) / j) for j in ks}
    return numbers


def spearman(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Rank correlation, ties at their mean rank; 0 where a side is constant."""
    return float(scipy.stats.spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0


def mean(values: Any) -> float:
    """The mean as a plain number, NaN of nothing."""
    return float(np.mean(values)) if np.size(values) else float("nan")


def per_group(
    groups: Sequence[Hashable | None],
    keep: Callable[[Bool[np.ndarray, "n"]], dict[str, float]],
    min_count: int = 1,
) -> dict[str, float]:
    """`keep(members)` of each group as `<group>/<metric>`, and the mean over the groups as `mean/<metric>`; without
    groups of fewer than `min_count` members."""
    names = sorted({g for g in groups if g is not None}, key=str)
    members = {str(name): np.array([g == name for g in groups], bool) for name in names}
    each = {name: keep(m) for name, m in members.items() if m.sum() >= min_count}
    numbers = {f"{name}/{metric}": value for name, part in each.items() for metric, value in part.items()}
    metrics = next(iter(each.values()), {})
    return {**numbers, **{f"mean/{m}": mean([part[m] for part in each.values()]) for m in metrics}}


def macro_f1(predicted: Bool[np.ndarray, "n"], target: Bool[np.ndarray, "n"]) -> float:
    """The mean over both classes of F1, `2 TP / (2 TP + FP + FN)`; 0 for a class that is neither predicted nor
    occurs."""

    def f1(p: Bool[np.ndarray, "n"], t: Bool[np.ndarray, "n"]) -> float:
        return 2 * float((p & t).sum()) / max(1, int(p.sum() + t.sum()))

    return (f1(predicted, target) + f1(~predicted, ~target)) / 2


def class_summary(predicted: Int[np.ndarray, "n"], target: Int[np.ndarray, "n"]) -> dict[str, float]:
    """Accuracy, and its mean over the classes that occur."""
    right = predicted == target
    return {
        "accuracy": mean(right),
        "mean_per_class_accuracy": mean([np.mean(right[target == c]) for c in np.unique(target)]),
    }


def consensus_accuracy(scores: Float[np.ndarray, "n v"], counts: Int[np.ndarray, "n v"], k: int = 1) -> float:
    """How right the best of the first k answers is, on average: wholly if two or more people gave it, half if one did
    (iVQA, Yang et al. 2021).

    scores: of each answer of the vocabulary; of equals the first is ahead.  counts: how many people gave it.
    """
    first = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return mean(np.minimum(np.take_along_axis(counts, first, 1) / 2, 1).max(1))


def calibration_error(confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): over bins of equal width of the confidence, the difference
    between mean confidence and accuracy, weighted by how many fall in."""
    if not len(right):
        return float("nan")
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(right))


def class_numbers(values: Sequence[Any], names: Sequence[Any] | None = None) -> tuple[list[Any], Int[np.ndarray, "n"]]:
    """The classes, sorted, and the class of each example, -1 for None. names: those of the training set, where there
    is one; what is not among them is an error."""
    names = sorted({plain(v) for v in values if v is not None}, key=str) if names is None else list(names)
    numbers = {name: i for i, name in enumerate(names)}
    unknown = next((v for v in values if v is not None and plain(v) not in numbers), None)
    if unknown is not None:
        raise ConfigError(f"evaluator: the label {unknown!r} does not occur in the training set")
    return names, np.array([-1 if v is None else numbers[plain(v)] for v in values], np.int32)


def plain(value: Any) -> Any:
    """A label as Python's own type, a text as str."""
    value = value.item() if isinstance(value, np.generic | np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else value


def several(value: Any) -> list[Any]:
    """A label, a list of them, or None, as a list."""
    if value is None:
        return []
    return (
        [plain(v) for v in value] if isinstance(value, list | tuple | np.ndarray) and np.ndim(value) else [plain(value)]
    )
