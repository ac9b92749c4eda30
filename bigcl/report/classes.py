"""What a classification by prompts said: of each class, of each pair of classes, and where it was surest and wrong."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from bigcl.files import replacing
from bigcl.report.gallery import packed, unpacked


@dataclasses.dataclass(frozen=True)
class Classes:
    """N examples with their class, the class they were taken for, and how sure the model was.

    name: of the evaluator.  classes: names, which `labels` and `predicted` [N] count in.
    confidence: probability of the class that was said.
    worst: some mistakes, the surest first.  pictures: theirs, or none.  attribution: who made them.
    """

    name: str
    classes: Sequence[str]
    labels: Int[np.ndarray, "n"]
    predicted: Int[np.ndarray, "n"]
    confidence: Float[np.ndarray, "n"]
    worst: Int[np.ndarray, "k"]
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
    attribution: str | None = None

    def counts(self) -> Int[np.ndarray, "c c"]:
        """Examples of each class (rows) that were taken for each (columns)."""
        size = len(self.classes)
        return np.bincount(self.labels * size + self.predicted, minlength=size * size).reshape(size, size)

    def accuracies(self) -> list[tuple[str, float, int]]:
        """Name, accuracy and number of examples of each class that occurs, the worst first."""
        counts = self.counts()
        each = [(name, counts[i, i] / n, int(n)) for i, name in enumerate(self.classes) if (n := counts[i].sum())]
        return sorted(each, key=lambda row: (row[1], -row[2]))

    def confused(self, most: int = 8) -> list[tuple[str, str, float, int]]:
        """Which class is taken for which other, with the share of its examples and their number, most often first."""
        counts = self.counts()
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        off = counts * ~np.eye(len(counts), dtype=bool)
        places = np.argsort(-off, axis=None, kind="stable")[:most]
        pairs = [divmod(int(p), len(counts)) for p in places]
        return [(self.classes[a], self.classes[b], float(share[a, b]), int(off[a, b])) for a, b in pairs if off[a, b]]


def save_classes(classes: Classes, path: pathlib.Path) -> None:
    """Writes `classes` as a compressed `.npz` of plain arrays: complete or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            name=np.array(classes.name, np.str_),
            classes=np.array(classes.classes, np.str_),
            labels=np.asarray(classes.labels, np.int64),
            predicted=np.asarray(classes.predicted, np.int64),
            confidence=np.asarray(classes.confidence, np.float32),
            worst=np.asarray(classes.worst, np.int64),
            attribution=np.array(classes.attribution or "", np.str_),
            **packed(classes.pictures),
        )


def load_classes(path: pathlib.Path) -> Classes:
    """Reads what `save_classes` wrote. Raises ValueError, naming the file, if it is something else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        return Classes(
            name=str(arrays["name"]),
            classes=arrays["classes"].tolist(),
            pictures=unpacked(arrays),
            attribution=str(arrays["attribution"]) or None,
            **{key: arrays[key] for key in ("labels", "predicted", "confidence", "worst")},
        )
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not what an evaluation said of classes ({error}); remove it") from error
