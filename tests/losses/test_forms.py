"""Each form of contrast against whole matrices: value and gradients on one device and on eight, and common properties.

References are written from the papers' equations, with explicit B x B matrices.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl import losses
from bigcl.losses import streaming
from bigcl.losses.distillation import kept_rows
from bigcl.losses.swapped import plan, sinkhorn
from bigcl.mesh import batch_sharding, make_mesh, replicated

B, D, K = 16, 6, 8


def cross_entropy(logits, axis=1):
    """Rows or columns against the diagonal."""
    return jnp.mean(jax.nn.logsumexp(logits, axis=axis) - jnp.diagonal(logits))


def both(logits):
    return (cross_entropy(logits, 1) + cross_entropy(logits, 0)) / 2


def naive_infonce(
    za,
    zb,
    scale,
    direction="both",
    label_smoothing=0.0,
    within=False,
    decoupled=False,
    inside=False,
    labels=None,
    targets=None,
    groups=None,
    mask=None,
    weight=None,
    log_weight=None,
    negatives_a=None,
    negatives_b=None,
):
    b = len(za)
    eye = jnp.eye(b, dtype=bool)
    mask = jnp.ones(b, bool) if mask is None else mask
    soft = (eye if labels is None else labels[:, None] == labels[None]).astype(za.dtype) if targets is None else targets
    reach = mask[:, None] & mask[None]
    if groups is not None:
        reach &= groups[:, None] == groups[None]
    q = jnp.exp(jnp.zeros(b) if log_weight is None else log_weight)
    v = mask * (jnp.ones(b) if weight is None else weight)

    def side(x, y, negatives, soft):
        same = soft > 0
        scores, weights, wanted = [scale * x @ y.T], [(reach & ~(decoupled & same)) * q[None]], [reach * soft]
        if within:
            scores.append(scale * x @ x.T)
            weights.append((reach & ~eye & ~(decoupled & same & (targets is None))) * q[None])
            wanted.append(reach * soft * ~eye * (labels is not None))
        if negatives is not None:
            own = negatives if negatives.ndim == 3 else jnp.repeat(negatives[None], b, 0)
            scores.append(scale * (x[:, None] * own).sum(-1))
            weights.append(jnp.ones(scores[-1].shape))
            wanted.append(jnp.zeros(scores[-1].shape))
        score, w, t = (jnp.concatenate(parts, 1) for parts in (scores, weights, wanted))
        partition = jnp.log(jnp.where(mask & w.any(1), (w * jnp.exp(score)).sum(1), 1))
        count = jnp.where(t.any(1), t.sum(1), 1)
        target = (t * score).sum(1) / count
        if inside:
            target = jnp.log(jnp.where(t.any(1), (t * jnp.exp(score)).sum(1) / count, 1))
        even = (scores[0] * mask[None]).sum(1) / mask.sum()
        terms = partition - (1 - label_smoothing) * target - label_smoothing * even
        return jnp.where(mask & t.any(1) & w.any(1), v * terms, 0).sum() / v.sum()

    a_to_b, b_to_a = side(za, zb, negatives_b, soft), side(zb, za, negatives_a, soft.T)
    return {"a_to_b": a_to_b, "b_to_a": b_to_a, "sum": a_to_b + b_to_a, "both": (a_to_b + b_to_a) / 2}[direction]


def naive_sigmoid(
    za,
    zb,
    scale,
    bias,
    labels=None,
    targets=None,
    groups=None,
    mask=None,
    weight=None,
    negatives_a=None,
    negatives_b=None,
):
    """Each pair of a matrix and each further negative decided, at the weight that it has."""
    b = len(za)
    mask = jnp.ones(b, bool) if mask is None else mask
    v = mask * (jnp.ones(b) if weight is None else weight)
    same = jnp.eye(b, dtype=bool) if labels is None else labels[:, None] == labels[None]
    share = same.astype(za.dtype) if targets is None else targets
    reach = mask[:, None] & mask[None]
    if groups is not None:
        reach &= groups[:, None] == groups[None]
    logit = scale * za @ zb.T + bias
    cost = -share * jax.nn.log_sigmoid(logit) - (1 - share) * jax.nn.log_sigmoid(-logit)
    total = (reach * cost * (v[:, None] + v[None]) / 2).sum()
    for z, more in ((za, negatives_b), (zb, negatives_a)):
        if more is not None:
            own = more if more.ndim == 3 else jnp.repeat(more[None], b, 0)
            total += (v * -jax.nn.log_sigmoid(-(scale * (z[:, None] * own).sum(-1) + bias)).sum(1)).sum()
    return total / v.sum()


def naive_dcl(za, zb, scale, sigma=None, weight_gradient=False):
    others = ~jnp.eye(len(za), dtype=bool)

    def one_way(x, y):
        positive = (x * y).sum(1)
        w = jnp.ones(len(x))
        if sigma is not None:
            w = 2 - jnp.exp(positive / sigma) / jnp.exp(positive / sigma).mean()
            w = w if weight_gradient else jax.lax.stop_gradient(w)
        negative = (others * (jnp.exp(scale * x @ y.T) + jnp.exp(scale * x @ x.T))).sum(1)
        return (-w * scale * positive + jnp.log(negative)).mean()

    return (one_way(za, zb) + one_way(zb, za)) / 2


def naive_cwcl(za, zb, scale, frozen=None):
    za = jax.lax.stop_gradient(za)
    f = za if frozen is None else jax.lax.stop_gradient(frozen)
    f = f / jnp.linalg.norm(f, axis=1, keepdims=True)
    w = (f @ f.T + 1) / 2
    logits = scale * za @ zb.T
    soft = -((w * jax.nn.log_softmax(logits, 1)).sum(1) / w.sum(1)).mean()
    return soft + cross_entropy(logits, 0)


def naive_one_to_k(*z, scale):
    item, texts = z[0], jnp.stack(z[1:], 1)
    b, k, d = texts.shape
    logits = scale * item @ texts.reshape(b * k, d).T
    own = jnp.arange(b)[:, None] == jnp.arange(b * k)[None] // k
    item_to_text = -(own * jax.nn.log_softmax(logits, 1)).sum() / b
    text_to_item = -(own * jax.nn.log_softmax(logits, 0)).sum() / (b * k)
    return (item_to_text + text_to_item) / (2 * k)


def naive_temporal(za, zb, ra, rb, scale, own=1.0, others=1.0, reverse=1.0, reversible=None):
    b = len(za)
    there = jnp.ones(b, bool) if reversible is None else reversible
    eye = jnp.eye(b)
    crossed = own * eye + others * (1 - eye)
    w = jnp.block([[jnp.ones((b, b)), crossed], [crossed, jnp.ones((b, b))]])
    real = jnp.concatenate([jnp.ones(b, bool), there])
    w = w * real[:, None] * real[None]
    logits = scale * jnp.concatenate([za, ra]) @ jnp.concatenate([zb, rb]).T

    def one_way(s):
        terms = jnp.log(jnp.where(real, (w * jnp.exp(s)).sum(1), 1)) - jnp.diagonal(s)
        return terms[:b].mean() + reverse * (terms[b:] * there).sum() / there.sum()

    return one_way(logits) + one_way(logits.T)


def naive_pairwise(*z, scale):
    return jnp.mean(jnp.array([both(scale * x @ y.T) for x, y in itertools.combinations(z, 2)]))


def naive_pairwise_views(*z, scale):
    half, b = len(z) // 2, len(z[0])
    stacked = [jnp.concatenate([z[m], z[m + half]]) for m in range(half)]
    other = (jnp.arange(2 * b) + b) % (2 * b)
    found = []
    for m, n in itertools.permutations(range(half), 2):
        logits = scale * stacked[m] @ stacked[n].T
        partition = jnp.log((jnp.exp(logits) * (1 - jnp.eye(2 * b))).sum(1))
        found.append(((partition - logits[jnp.arange(2 * b), other]) / 2).mean())
    return jnp.mean(jnp.array(found))


def naive_distillation(
    za, zb, scale, teacher_a, teacher_b, teacher_scale=None, screen=False, direction="both", reduction="mean"
):
    ta, tb = (jax.lax.stop_gradient(t) for t in (teacher_a, teacher_b))
    s = jax.lax.stop_gradient(scale) if teacher_scale is None else teacher_scale
    student, teacher, cosine = scale * za @ zb.T, s * ta @ tb.T, ta @ tb.T
    found = []
    for x, y, c in ((student, teacher, cosine), (student.T, teacher.T, cosine.T)):
        p, log_q = jax.nn.softmax(y, 1), jax.nn.log_softmax(x, 1)
        rows = (p * (jnp.log(p) - log_q)).sum(1)
        rows = rows * (c.argmax(1) == jnp.arange(len(c))) if screen else rows
        found.append(rows.sum() if reduction == "sum" else rows.mean())
    return {"both": (found[0] + found[1]) / 2, "a_to_b": found[0]}[direction]


def naive_potential(x, y):
    distance = 2 - 2 * x @ y.T  # of unit vectors; off the sphere, where no task is, gradients differ
    return jnp.log((jnp.exp(-2 * distance) * (1 - jnp.eye(len(x)))).sum() / (len(x) * (len(x) - 1)))


def naive_views(za, zb, *views, scale, local_scale, label_smoothing):
    v = len(views) // 2
    local_a, local_b = views[:v], views[v:]
    local = [
        naive_infonce(x, y, local_scale, label_smoothing=label_smoothing)
        for x, y in itertools.product(local_a, local_b)
    ]
    return (both(scale * za @ zb.T) + v * sum(local) / v**2) / (1 + v)


def naive_barlow(za, zb, redundancy=0.005, standardize=True):
    if standardize:
        za, zb = ((z - z.mean(0)[None]) / z.std(0)[None] for z in (za, zb))
    c = za.T @ zb / len(za)
    eye = jnp.eye(len(c))
    return (eye * (c - 1) ** 2 + redundancy * (1 - eye) * c**2).sum()


def naive_cosine(p, z):
    z = jax.lax.stop_gradient(z)
    cosine = (p * z).sum(1) / (jnp.linalg.norm(p, axis=1) * jnp.linalg.norm(z, axis=1))
    return (2 - 2 * cosine).mean()


def naive_sinkhorn(score, epsilon=0.05, iterations=3):
    """The matrix, by turns scaled to columns and to rows of sum 1."""
    t = jnp.exp(score / epsilon)
    for _ in range(iterations):
        t = t / t.sum(0)[None]
        t = t / t.sum(1)[:, None]
    return jax.lax.stop_gradient(t)


def naive_swapped(a_1, a_2, b_1, b_2, scale):
    a, b, total = (a_1, a_2), (b_1, b_2), 0.0
    for v, w in itertools.product((0, 1), (0, 1)):
        score, other = a[v] @ b[w].T, a[1 - v] @ b[1 - w].T
        for s, t in ((score, naive_sinkhorn(other)), (score.T, naive_sinkhorn(other.T))):
            total += -(t * jax.nn.log_softmax(scale * s, 1)).sum(1).mean() / 8
    return total


def draw(seed=0):
    """Unit rows, labels and all else that a form may ask for, by name."""
    rng = np.random.default_rng(seed)
    unit = lambda *shape: (x := rng.normal(size=(*shape, D))) / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    names = ("za", "zb", "zc", "zd", "ze", "zf", "teacher_a")
    made: dict[str, Any] = {name: unit(B) for name in names}
    made["teacher_b"] = made["teacher_a"] + 1.2 * unit(B)  # right for some rows
    made["teacher_b"] /= np.linalg.norm(made["teacher_b"], axis=1, keepdims=True)
    return made | {
        "frozen": rng.normal(size=(B, 9)),
        "scale": np.array(4.0),
        "local_scale": np.array(3.0),
        "bias": np.array(-1.5),
        "labels": rng.integers(0, 5, B),
        "groups": np.arange(B) % 3,
        "mask": np.arange(B) % 5 != 2,
        "reversible": np.arange(B) % 4 != 1,
        "weight": rng.random(B) * (np.arange(B) % 3 != 1),
        "log_weight": rng.normal(size=B),
        "shares": rng.random((B, B)),
        "targets": np.maximum(rng.normal(size=(B, B)), 0) * (np.arange(B) != 3)[:, None],
        "shared_a": unit(K),
        "shared_b": unit(2 * K),
        "own_b": unit(B, 3),
    }


@dataclasses.dataclass(frozen=True)
class Form:
    """A loss, its reference, which arrays they get and with what options.

    of: positional.  given: as keywords, argument -> name of the array.
    """

    loss: Callable[..., jax.Array]
    naive: Callable[..., jax.Array]
    of: tuple[str, ...]
    given: Mapping[str, str]
    options: Mapping[str, Any]

    def names(self) -> list[str]:
        return [*self.of, *self.given.values()]

    def call(self, function, arrays):
        keywords = {k: arrays[name] for k, name in self.given.items()}
        return function(*(arrays[name] for name in self.of), **keywords, **self.options)


def form(loss, naive, of, given=(), **options):
    return Form(loss, naive, tuple(of.split()), {g.split(":")[0]: g.split(":")[-1] for g in given}, options)


infonce = functools.partial(form, losses.infonce, naive_infonce, "za zb scale")
sigmoid = functools.partial(form, losses.sigmoid, naive_sigmoid, "za zb scale bias")
NEGATIVES = ["negatives_a:shared_a", "negatives_b:shared_b"]
KNOWN = ["labels", "mask", "weight", "log_weight"]
FORMS = {
    "sum": infonce(direction="sum", label_smoothing=0.2),
    "within": infonce(within=True),
    "decoupled": infonce(within=True, decoupled=True),
    "labels": infonce(["labels"]),
    "labels within, inside": infonce(["labels"], within=True, inside=True, direction="a_to_b"),
    "targets": infonce(["targets"]),
    "targets of those that are there, inside": infonce(["targets:shares", "mask", "groups"], inside=True),
    "targets within": infonce(["targets", "weight", *NEGATIVES], within=True, decoupled=True),
    "groups": infonce(["groups"]),
    "mask": infonce(["mask"], label_smoothing=0.1),
    "negatives": infonce(NEGATIVES),
    "negatives of each": infonce(["negatives_b:own_b"], inside=True),
    "everything": infonce([*KNOWN, "groups", *NEGATIVES], within=True, decoupled=True),
    "everything, inside": infonce([*KNOWN, *NEGATIVES], within=True, inside=True, label_smoothing=0.1),
    "sigmoid labels": sigmoid(["labels"]),
    "sigmoid targets": sigmoid(["targets:shares", "mask"]),
    "sigmoid groups": sigmoid(["groups"]),
    "sigmoid mask and weight": sigmoid(["mask", "weight"]),
    "sigmoid negatives": sigmoid(NEGATIVES),
    "sigmoid negatives of each": sigmoid(["negatives_b:own_b", "weight"]),
    "sigmoid everything": sigmoid(["labels", "mask", "weight", "groups", *NEGATIVES]),
    "dcl": form(losses.dcl, naive_dcl, "za zb scale", sigma=0.5),
    "dcl weight gradient": form(losses.dcl, naive_dcl, "za zb scale", sigma=0.5, weight_gradient=True),
    "cwcl": form(losses.cwcl, naive_cwcl, "za zb scale"),
    "cwcl frozen": form(losses.cwcl, naive_cwcl, "za zb scale", ["frozen"]),
    "one_to_k": form(losses.one_to_k, naive_one_to_k, "za zb zc zd", ["scale"]),
    "temporal": form(losses.temporal_nce, naive_temporal, "za zb zc zd scale", own=0.5, others=0.0, reverse=0.7),
    "temporal reversible": form(losses.temporal_nce, naive_temporal, "za zb zc zd scale", ["reversible"]),
    "pairwise": form(losses.pairwise, naive_pairwise, "za zb zc", ["scale"]),
    "pairwise_views": form(losses.pairwise_views, naive_pairwise_views, "za zb zc zd ze zf", ["scale"]),
    "distillation": form(
        losses.similarity_distillation, naive_distillation, "za zb scale", ["teacher_a", "teacher_b"], teacher_scale=2.0
    ),
    "distillation screened": form(
        losses.similarity_distillation,
        naive_distillation,
        "za zb scale",
        ["teacher_a", "teacher_b"],
        screen=True,
        reduction="sum",
    ),
    "uniformity": form(losses.uniformity, lambda x, y: (naive_potential(x, x) + naive_potential(y, y)) / 2, "za zb"),
    "cross_uniformity": form(losses.cross_uniformity, naive_potential, "za zb"),
    "alignment": form(losses.alignment, lambda x, y: jnp.square(x - y).sum() / len(x), "za zb"),
    "views": form(
        losses.views_infonce,
        naive_views,
        "za zb zc zd ze zf",
        ["scale", "local_scale"],
        label_smoothing=0.1,
    ),
    "barlow": form(losses.barlow, naive_barlow, "za zb"),
    "barlow as it is": form(losses.barlow, naive_barlow, "za zb", standardize=False, redundancy=0.3),
    "negative_cosine": form(losses.negative_cosine, naive_cosine, "za zb"),
    "swapped": form(losses.swapped, naive_swapped, "za zb zc zd scale"),
}


@functools.cache
def compiled(name, naive=False):
    """Value and gradients by every float array, as a function of the arrays by name."""
    this = FORMS[name]

    def run(arrays):
        floats = {k: v for k, v in arrays.items() if jnp.issubdtype(v.dtype, jnp.floating)}
        value = lambda floats: this.call(this.naive if naive else this.loss, {**arrays, **floats})  # noqa: E731
        return jax.value_and_grad(value)(floats)

    return jax.jit(run)


def arrays_of(name, dtype=np.float64, seed=0):
    made = draw(seed)
    cast = lambda x: x.astype(dtype if x.dtype.kind == "f" else np.int32 if x.dtype.kind == "i" else bool)  # noqa: E731
    return {k: jnp.asarray(cast(made[k])) for k in FORMS[name].names()}


def assert_close(got, expected, rtol):
    for path, want in jax.tree_util.tree_leaves_with_path(expected):
        found = functools.reduce(lambda tree, key: tree[getattr(key, "key", getattr(key, "idx", None))], path, got)
        scale = max(1e-3, float(jnp.abs(want).max()))
        np.testing.assert_allclose(found, want, rtol=0, atol=rtol * scale, err_msg=str(path))


@contextlib.contextmanager
def loose():
    """References may mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@functools.cache
def reference(name):
    with loose(), jax.enable_x64(True):
        return jax.device_get(compiled(name, naive=True)(arrays_of(name)))


@pytest.mark.parametrize("name", FORMS)
def test_value_and_gradients_are_those_of_the_matrix(name):
    with jax.enable_x64(True):
        got = compiled(name)(arrays_of(name))
        assert got[0].dtype == jnp.float64 and got[0].shape == ()
        assert_close(got, reference(name), 1e-9)


RING = [
    *("everything", "everything, inside", "sigmoid everything", "cwcl frozen", "one_to_k", "temporal reversible"),
    "distillation screened",
]
"""Forms of which each has columns, or asks for sums, of its own."""


def on_eight_devices(name, arrays, exchange):
    """Value and gradients where the columns are exchanged in one of the two ways."""
    mesh = make_mesh()
    placed = {
        k: jax.device_put(v, batch_sharding(mesh) if v.ndim and len(v) % 8 == 0 else replicated(mesh))
        for k, v in arrays.items()
    }
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(mesh):
        patch.setattr(streaming, "GATHER_BYTES", 0 if exchange == "ring" else 2**40)
        anew = lambda arrays: compiled(name).__wrapped__(arrays)  # noqa: E731, a trace is kept by function
        program = jax.jit(anew).lower(placed)
    assert exchange == "gather" or "collective_permute" in program.as_text()
    return jax.device_get(program.compile()(placed))


@pytest.mark.parametrize(
    ("name", "exchange"), [*((name, "gather") for name in FORMS), *((name, "ring") for name in RING)]
)
def test_eight_devices_find_what_the_matrix_gives(name, exchange):
    got = on_eight_devices(name, arrays_of(name, np.float32), exchange)
    assert got[0].dtype == jnp.float32
    assert_close(got, reference(name), 2e-5)


@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_eight_devices_sum_in_float32_what_is_bfloat16(exchange):
    """Against the matrix of the same rounded embeddings: their gradients are rounded, no other is."""
    name = "everything"
    arrays = {k: v.astype(jnp.bfloat16) if v.ndim > 1 else v for k, v in arrays_of(name, np.float32).items()}
    got = on_eight_devices(name, arrays, exchange)
    with loose(), jax.enable_x64(True):
        exact = {k: v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v for k, v in arrays.items()}
        expected = jax.device_get(compiled(name, naive=True)(exact))
    rounded = {k for k, v in arrays.items() if v.dtype == jnp.bfloat16}
    assert {k for k, v in got[1].items() if v.dtype == jnp.bfloat16} == rounded
    kept = lambda pair: (pair[0], {k: v for k, v in pair[1].items() if k not in rounded})  # noqa: E731
    assert_close(kept(got), kept(expected), 2e-5)
    assert_close({k: got[1][k].astype(np.float64) for k in rounded}, {k: expected[1][k] for k in rounded}, 1e-2)


@pytest.mark.parametrize("name", FORMS)
def test_order_of_the_rows_does_not_matter(name):
    order = np.random.default_rng(1).permutation(B)
    with jax.enable_x64(True):
        arrays = arrays_of(name)
        moved = lambda x: functools.reduce(  # noqa: E731
            lambda x, axis: jnp.take(x, order, axis), [i for i, n in enumerate(x.shape) if n == B], x
        )
        keep = {"shared_b"}  # as many as rows, but none of them
        shuffled = {k: v if k in keep else moved(v) for k, v in arrays.items()}
        value, gradients = compiled(name)(arrays)
        again, found = compiled(name)(shuffled)
        expected = {k: v if k in keep else moved(v) for k, v in gradients.items()}
        assert_close((again, found), (value, expected), 1e-9)


@pytest.mark.parametrize("case", ["identical", "opposite", "zero"])
@pytest.mark.parametrize("scale", [1e-2, 1e3])
@pytest.mark.parametrize("name", FORMS)
def test_finite_for_extreme_scales_and_inputs(name, scale, case):
    with jax.enable_x64(True):
        arrays = arrays_of(name)
        change = {
            "identical": lambda k, v: jnp.broadcast_to(arrays["za"][:1], v.shape),
            "opposite": lambda k, v: -arrays["za"] if k == "zb" else v,
            "zero": lambda k, v: jnp.zeros_like(v),
        }[case]
        changed = {k: change(k, v) if k.startswith("z") else v for k, v in arrays.items()}
        changed |= {k: jnp.full_like(v, scale) for k, v in arrays.items() if k.endswith("scale")}
        found = compiled(name)(changed)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("name", FORMS)
def test_what_is_not_a_number_is_not_hidden(name):
    """The step would train on: it skips what is not finite."""
    with jax.enable_x64(True):
        arrays = arrays_of(name)
        first = FORMS[name].of[0]
        value, _ = compiled(name)({**arrays, first: arrays[first].at[0, 0].set(jnp.nan)})
    assert not np.isfinite(value)


def test_rows_that_the_teacher_gets_right():
    """Not all of them are; of equal similarities the first counts, along rows and along columns."""
    made = draw()
    a, b = (jnp.asarray(made[k], jnp.float32) for k in ("teacher_a", "teacher_b"))
    cosine = np.asarray(a) @ np.asarray(b).T
    for found, matrix in zip(kept_rows(a, b), (cosine, cosine.T), strict=True):
        np.testing.assert_array_equal(found, matrix.argmax(1) == np.arange(B))
        assert 0 < found.sum() < B
    e = jnp.eye(4)[jnp.array([0, 1, 1, 2])]
    for found in kept_rows(e, e):
        assert found.tolist() == [True, True, False, True]


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equal_rows_the_teacher_gets_the_first_right(dtype, devices):
    """Rows that occur again, as captions do, whose products are rounded in other ways: the first counts."""
    rng, b = np.random.default_rng(0), 64
    row = np.maximum.accumulate(np.arange(b) * (rng.random(b) < 0.4))
    x = rng.normal(size=(b, 300))
    with jax.enable_x64(True):
        unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, x + 0.5 * x[:, :1])]
        sides = [jnp.asarray(z[row], dtype) for z in unit]
        mesh = make_mesh(data=devices, devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            found = jax.jit(kept_rows)(*(jax.device_put(z, batch_sharding(mesh)) for z in sides))
        for kept in found:
            np.testing.assert_array_equal(kept, row == np.arange(b))


@pytest.mark.parametrize(("m", "n", "iterations"), [(6, 6, 3), (4, 9, 1), (12, 12, 50)])
def test_sinkhorn(m, n, iterations):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        a, b = (jnp.asarray(rng.normal(size=(k, 5)) / 3) for k in (m, n))
        u, v = sinkhorn(a, b, epsilon=0.2, iterations=iterations)
        found = np.asarray(plan(0.2)((a, u), (b, v)))
        with loose():
            expected = naive_sinkhorn(a @ b.T, 0.2, iterations)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-9)
    if iterations == 50:
        np.testing.assert_allclose(found.sum(0), 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, s: losses.dcl(z[:1], z[:1], s), "no negatives"),
        (lambda z, s: losses.one_to_k(z, scale=s), "one text or more"),
        (lambda z, s: losses.pairwise(z, scale=s), "two modalities"),
        (lambda z, s: losses.pairwise_views(z, z, z, scale=s), "got 3 arrays"),
        (lambda z, s: losses.uniformity(z[:1]), "two rows"),
        (lambda z, s: losses.alignment(z), "two inputs"),
        (
            lambda z, s: losses.infonce(z, z, s, label_smoothing=0.1, groups=jnp.zeros(4, jnp.int32)),
            "groups leave candidates out",
        ),
        (
            lambda z, s: losses.views_infonce(z, z, z, z, z, scale=s, local_scale=s),
            "as many local views",
        ),
    ],
)
def test_what_cannot_be_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((4, 3)), jnp.asarray(2.0))
