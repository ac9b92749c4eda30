"""How embeddings lie on the sphere."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from bigcl.data.tokenizers import Tokenizer
from bigcl.embeddings import Shards
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples, unit
from bigcl.evals.metrics import mean
from bigcl.evals.ranks import in_chunks, over_rows
from bigcl.registry import ConfigError, Part

BLOCK = 65_536


class Geometry:
    """Numbers of the embedding space of two inputs of the same examples.

    first, second: the inputs; row i of one belongs to row i of the other.

    alignment: mean squared distance of pairs (Wang and Isola 2020, alpha = 2).
    uniformity, by input: `log mean exp(-2 |x - y|^2)` over all pairs of different examples (ibid., t = 2).
    modality_gap: distance of the means of the two inputs (Liang et al. 2022).  centroid_cosine: their cosine.
    effective_rank, by input: exponential of the entropy of the singular values, as shares of their sum (Roy and
        Vetterli 2007; RankMe, Garrido et al. 2023).
    isotropy, by input: `min_c Z(c) / max_c Z(c)`, `Z(c) = sum_x exp(c . x)` over the eigenvectors c of the second
        moments (Mu and Viswanath 2018); 1 is isotropic.
    positive_cosine, negative_cosine: means over pairs, and over all rows of one with all other rows of the other.
    structure: Pearson correlation of cos(a_i, a_j) with cos(a_i, b_j) over i != j, a of `first` and b of `second`: how
        far the second input lies to the first as the first lies to itself.
    temperature: of the model, where it is known.
    turned, angle_change, by input, with `before`, a folder that bigcl.embed wrote of the same examples by the model
        before: the mean angle in degrees between an example's embeddings before and now, and the mean change of the
        angle between two examples (Mod-X, Ni et al. 2023); of about 2,000 examples, evenly over all.

    After `run`, `artifacts` holds the embeddings [N, D] and `<input>/singular_values` [D].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        first: str = "image",
        second: str = "text",
        before: str | None = None,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.before = None if before is None else Shards.open(pathlib.Path(before))
        if self.before is not None and self.before.size != len(self.examples):
            raise ConfigError(f"geometry.before: {before} has {self.before.size} examples, not {len(self.examples)}")
        self.first, self.second, self.mesh = first, second, mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        found = self.examples.embed(encode, self.first, self.second)
        self.artifacts = dict(found)
        a, b = found[self.first], found[self.second]
        n, positive = len(a), np.einsum("nd,nd->n", a, b, dtype=np.float64)
        sums = [x.sum(0, dtype=np.float64) for x in (a, b)]
        numbers = {
            "alignment": float(np.mean(np.square((a - b).astype(np.float64)).sum(1))),
            **centroids(a, b),
            "positive_cosine": float(positive.mean()),
            "negative_cosine": float((sums[0] @ sums[1] - positive.sum()) / max(1, n * (n - 1))),
            "structure": structure(a, b),
        }
        for name, x in found.items():
            singular, vectors = spectrum(x)
            self.artifacts[f"{name}/singular_values"] = singular
            numbers[f"{name}/uniformity"] = uniformity(x, self.mesh)
            numbers[f"{name}/effective_rank"] = effective_rank(singular)
            numbers[f"{name}/isotropy"] = isotropy(x, vectors)
            if self.before is not None:
                numbers |= {f"{name}/{key}": value for key, value in turns(self.before, name, x).items()}
        scale = getattr(encode, "scale", None)
        numbers["examples"] = float(n)
        return numbers if scale is None else {**numbers, "temperature": 1 / float(scale)}


def centroids(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> dict[str, float]:
    """Distance and cosine of the means of two sets."""
    means = [x.mean(0, dtype=np.float64) for x in (a, b)]
    return {
        "modality_gap": float(np.linalg.norm(means[0] - means[1])),
        "centroid_cosine": float(unit(means[0]) @ unit(means[1])),
    }


def structure(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> float:
    """Correlation of a_i . a_j with a_i . b_j over i != j, from second moments: the sum of the products over all pairs
    is that of the entries of `sum a a^T` and `sum a b^T`. 0 where a side is constant."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    n, (total_a, total_b), (aa, ab, bb) = len(a), (a.sum(0), b.sum(0)), (a.T @ a, a.T @ b, b.T @ b)
    own, other = (a * a).sum(1), (a * b).sum(1)
    count = max(1, n * (n - 1))
    mean_a, mean_b = (total_a @ total_a - own.sum()) / count, (total_a @ total_b - other.sum()) / count
    moment = {
        "aa": ((aa * aa).sum() - own @ own) / count - mean_a**2,
        "ab": ((aa * ab).sum() - own @ other) / count - mean_a * mean_b,
        "bb": ((aa * bb).sum() - other @ other) / count - mean_b**2,
    }
    spread = moment["aa"] * moment["bb"]
    return float(moment["ab"] / np.sqrt(spread)) if spread > 1e-24 else 0.0


def turns(before: Shards, name: str, now: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """How much one input's embeddings have turned since a folder was written; what it lacks does not count."""
    indices, _, old = before.table(name)
    some = slice(None, None, -(-len(indices) // 2_000))
    between, own = angle_changes(old[some], now[indices[some]])
    return {"turned": mean(own), "angle_change": mean(np.abs(between))}


def angle_changes(
    old: Float[np.ndarray, "n d"], new: Float[np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, "n"]]:
    """How one input's embeddings have turned between two models (Mod-X, Ni et al. 2023), in degrees.

    First the change of the angle between two rows, old minus new, for each pair i < j, by i and then j; then the angle
    from the old to the new embedding of each row. Holds n x n numbers.
    """
    old, new = unit(old.astype(np.float64)), unit(new.astype(np.float64))
    upper = np.triu_indices(len(old), 1)
    between = [degrees((x @ x.T)[upper]) for x in (old, new)]
    return between[0] - between[1], degrees((old * new).sum(1))


def degrees(cosine: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The angle of a cosine."""
    return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


def uniformity(x: Float[np.ndarray, "n d"], mesh: Mesh) -> float:
    """`log mean exp(-2 |x_i - x_j|^2)` over i != j of rows of length 1."""
    places = np.arange(len(x), dtype=np.int32)
    energy = over_rows(potential, (x, places), in_chunks(x, places), mesh).sum(dtype=np.float64)
    return float(np.log(energy / max(1, len(x) * (len(x) - 1))))


def potential(rows: Any, chunks: Any) -> Float[Array, "n"]:
    """Sum of the Gaussian kernel of each row with all others."""
    x, own = rows

    def add(total: Float[Array, "n"], chunk: Any) -> tuple[Float[Array, "n"], None]:
        items, _, places = chunk
        cosine = jnp.einsum("nd,md->nm", x, items, precision=jax.lax.Precision.HIGHEST)
        other = (own[:, None] != places[None]) & (places >= 0)[None]
        return total + jnp.where(other, jnp.exp(4 * cosine - 4), 0).sum(1), None

    return jax.lax.scan(add, jnp.zeros(len(x)), chunks)[0]


def spectrum(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d d"]]:
    """Singular values, largest first, and right singular vectors, from the second moments in float64."""
    moments = sum(block.T @ block for block in blocks(x))
    values, vectors = np.linalg.eigh(moments)
    return np.sqrt(np.maximum(values[::-1], 0)), vectors[:, ::-1]


def effective_rank(singular: Float[np.ndarray, "d"]) -> float:
    """Exponential of the entropy of the singular values."""
    share = singular[singular > 0] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def isotropy(x: Float[np.ndarray, "n d"], vectors: Float[np.ndarray, "d d"]) -> float:
    """Smallest over largest partition function along the eigenvectors."""
    z = sum(np.exp(block @ vectors).sum(0) for block in blocks(x))
    return float(np.min(z) / np.max(z))


def blocks(x: Float[np.ndarray, "n d"]) -> Iterator[Float[np.ndarray, "m d"]]:
    """Rows in float64, some at a time."""
    return (x[i : i + BLOCK].astype(np.float64) for i in range(0, len(x), BLOCK))
