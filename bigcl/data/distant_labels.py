"""Labels of sentences that come from a model's similarities rather than from people: which are visual, and by which
picture of their page.

    python -m bigcl.embed --checkpoint clip --data sentences ... --key page --out sentences/embeddings
    python -m bigcl.embed --checkpoint clip --data pictures ... --key page --out pictures/embeddings
    python -m bigcl.data distant-labels --sentences sentences/embeddings --pictures pictures/embeddings --out labels

A line for each sentence that is labelled: its number in the source, its page, whether it is visual, and the number of
its picture, null where it is not. Sentences and pictures that have the same key, which --key names, are of one page.
"""

import argparse
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from bigcl.embeddings import Shards
from bigcl.files import write_json_lines


def main(argv: list[str]) -> None:
    """Parses, labels, writes, prints."""
    parser = argparse.ArgumentParser(
        "python -m bigcl.data distant-labels", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--sentences", type=pathlib.Path, required=True, help="embeddings that bigcl.embed wrote")
    parser.add_argument("--pictures", type=pathlib.Path, required=True, help="those of the pictures, by the same model")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a file of JSON lines")
    parser.add_argument("--query", default="text", help="the input of sentences (default text)")
    parser.add_argument("--item", default="image", help="the input of pictures (default image)")
    parser.add_argument("--above", type=float, default=0.35, help="cosine of what is visual (default 0.35)")
    parser.add_argument("--below", type=float, default=0.18, help="cosine of what is not (default 0.18)")
    args = parser.parse_args(argv)
    folders = Shards.open(args.sentences), Shards.open(args.pictures)
    visual, other = write_labels(*folders, args.out, args.query, args.item, args.above, args.below)
    print(f"{args.out}: {visual:,} visual sentences and {other:,} others")


def write_labels(
    sentences: Shards, pictures: Shards, out: pathlib.Path, query: str, item: str, above: float, below: float
) -> tuple[int, int]:
    """Writes what `visual_sentences` says of the sentences of each page; how many are visual, and how many are not."""
    (number, page, text), (picture, shown, image) = sentences.table(query), pictures.table(item)
    places: dict[str, list[int]] = {}
    for i, key in enumerate(shown):
        places.setdefault(key, []).append(i)
    count = [0, 0]

    def lines() -> Iterator[dict[str, Any]]:
        for i, key in enumerate(tqdm(page, desc="sentences", delay=1, disable=None)):
            mine = places.get(key, [])
            label, best = (
                int(x[0]) for x in visual_sentences(text[i : i + 1] @ image[mine].T, above=above, below=below)
            )
            if label < 0:
                continue
            count[label] += 1
            where = None if best < 0 else int(picture[mine[best]])
            yield {"index": int(number[i]), "key": key, "visual": label == 1, "picture": where}

    write_json_lines(out, lines())
    return count[1], count[0]


def visual_sentences(
    similarity: Float[np.ndarray, "n m"], *, above: float = 0.35, below: float = 0.18
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Which sentences of a page are visual, and which of its images shows each (Verma et al. 2023, "Learning the
    Visualness of Text Using Large Vision-Language Models").

    similarity: cosines of n sentences with m images of the page.

    Label 1 and the most similar image where a similarity is larger than `above`; label 0 where all are smaller than
    `below`, or there is no image; label -1, to be dropped, for what is between. The image is -1 where there is none.
    """
    if not similarity.shape[1]:
        return np.zeros(len(similarity), int), np.full(len(similarity), -1)
    top = similarity.max(1)
    label = np.where(top > above, 1, np.where(top < below, 0, -1))
    return label, np.where(label == 1, similarity.argmax(1), -1)
