"""Losses of published methods against naive references, their invariances, and batches on eight devices."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.losses import infonce, multilinear, unique, variance_covariance
from bigcl.losses.absolute_error import absolute_error
from bigcl.losses.classification import classification, consensus
from bigcl.losses.grouping import grouping, multi_positive
from bigcl.losses.mixup import draw_mixing, mix, mixture_contrast, mixup, soft_clip
from bigcl.losses.multilinear import draw_permutations
from bigcl.losses.supremix import contrast_counts, draw_coefficients, supremix
from bigcl.mesh import batch_sharding, make_mesh, replicated


class Case(NamedTuple):
    """loss, naive: of arrays, scale and extras.  shapes: of the arrays that have a gradient.  extras: draws what does
    not."""

    loss: Callable[..., Any]
    naive: Callable[..., Any]
    shapes: Callable[[int, int], list[tuple[int, ...]]]
    extras: Callable[[np.random.Generator, int], dict[str, np.ndarray]] = lambda rng, b: {}


def unit(x):
    return x / jnp.sqrt((x**2).sum(-1, keepdims=True))


def cross_entropy(logits, target):
    """Of rows of targets, which need not sum to 1."""
    return -(target * (logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True)))).sum(-1).mean()


def naive_infonce(a, b, scale):
    logits = scale * a @ b.T
    return (cross_entropy(logits, jnp.eye(len(a))) + cross_entropy(logits.T, jnp.eye(len(a)))) / 2


def naive_multilinear(z, scale, permutations=None):
    """One row of one anchor after the other, over a list of tuples."""
    b, total = len(z[0]), 0.0
    for anchor in range(len(z)):
        others = [k for k in range(len(z)) if k != anchor]
        for i in range(b):
            if permutations is None:
                tuples = [(i,) * len(others)]
                tuples += [t for t in itertools.product(range(b), repeat=len(others)) if t != tuples[0]]
            else:
                drawn = [tuple(permutations[anchor, k, j] for k in range(len(others))) for j in range(b) if j != i]
                tuples = [(i,) * len(others), *drawn]
            products = 1.0
            for k, rows in zip(others, np.array(tuples).T, strict=True):
                products = products * z[k][rows]
            logits = scale * (products @ z[anchor][i])
            total += jnp.log(jnp.exp(logits).sum()) - logits[0]
    return total / b / len(z)


def naive_supremix(
    z, scale, labels, coefficients, window=5.0, weighted=True, negatives=True, positives=True, shared=True
):
    """Every mixture made, and the sum over all contrasts of a row written out."""
    f, y = jnp.concatenate(z), np.tile(np.asarray(labels, float), len(z))
    lam, n, total = np.asarray(coefficients), len(f), 0.0
    for i in range(n):
        rows = [c for c in range(n) if c != i]
        k = [c for c in range(n) if y[c] != y[i]] if negatives else []
        j, m = np.array(
            [(a, b) for a in range(n) for b in range(n) if y[a] < y[i] < y[b]
             and y[i] - y[a] < window and y[b] - y[i] < window and positives] or np.zeros((0, 2))
        ).T.astype(int)  # fmt: skip
        share = ((y[m] - y[i]) / (y[m] - y[j]))[:, None]
        toward, away = lam[i, k][:, None] * f[i][None], (1 - lam[i, k])[:, None] * f[np.array(k, int)]
        mixed = jax.lax.stop_gradient(jnp.concatenate([toward + away, share * f[j] + (1 - share) * f[m]]))
        label = np.concatenate([lam[i, k] * y[i] + (1 - lam[i, k]) * y[k], np.full(len(j), y[i])])
        weight = np.abs(y[i] - np.concatenate([y[rows], label])) + 1 if weighted else np.ones(n - 1 + len(label))
        real, virtual = scale * (f[np.array(rows)] @ f[i]), scale * (mixed @ f[i])
        if not shared:
            real = real - jax.lax.stop_gradient(jnp.maximum(real.max(), scale * f[i] @ f[i]))
            virtual = virtual - jax.lax.stop_gradient(virtual.max(initial=0.0))
        logits = jnp.concatenate([real, virtual])
        positive = np.concatenate([y[rows] == y[i], np.arange(len(label)) >= len(k)])
        log_p = logits - jnp.log((weight * jnp.exp(logits)).sum())
        total -= (positive * log_p).sum() / positive.sum()
    return total / n


def naive_unique(z, scale, labels):
    names = list(dict.fromkeys(np.asarray(labels).tolist()))
    first = np.array([np.asarray(labels).tolist().index(name) for name in names])
    target = jnp.eye(len(names))[np.array([names.index(x) for x in np.asarray(labels).tolist()])]
    return cross_entropy(z[0] @ z[1][first].T, target)


def naive_mixup(z, scale, permutation, coefficients):
    share = coefficients[:, None]
    return naive_mixture(share * z[0] + (1 - share) * z[0][permutation], z[1], scale, permutation, coefficients)


def naive_mixture(mixed, other, scale, permutation, coefficients):
    target = np.diag(coefficients)
    target[np.arange(len(mixed)), permutation] = 1 - coefficients
    logits = scale * unit(mixed) @ unit(other).T
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target.T)) / 2


def naive_soft_clip(z, scale):
    a, b = map(unit, z)
    target, logits = jax.nn.softmax(scale * b @ b.T), scale * a @ b.T
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def naive_grouping(z, scale, weighting="minmax", threshold=0.0):
    *text, patches = z
    v, groups, texts = unit(patches), [], []
    for b in range(len(patches)):
        for t in (unit(x)[b] for x in text):
            s = v[b] @ t
            w = (s - s.min()) / (s.max() - s.min()) if weighting == "minmax" else jnp.exp(s) / jnp.exp(s).sum()
            w = w * (w >= (1 / len(s) if threshold < 0 else threshold))
            groups.append(unit((w / w.sum()) @ v[b]))
            texts.append(t)
    return naive_infonce(jnp.stack(groups), jnp.stack(texts), scale)


def naive_consensus(z, scale, counts):
    credit = np.minimum(counts / 2, 1)
    return cross_entropy(z[0], credit / np.maximum(credit.sum(1, keepdims=True), 1))


def naive_variance_covariance(z, scale, weights=(25.0, 25.0, 1.0)):
    """One dimension, and one pair of dimensions, after the other."""
    b, d = z[0].shape
    agree = sum((z[0][i] - z[1][i]) @ (z[0][i] - z[1][i]) for i in range(b)) / b / d
    spread = shared = 0.0
    for side in z:
        for j in range(d):
            spread += jnp.maximum(0, 1 - jnp.sqrt(jnp.var(side[:, j], ddof=1) + 1e-4)) / d
            others = [k for k in range(d) if k != j]
            shared += sum(jnp.cov(side[:, j], side[:, k])[0, 1] ** 2 for k in others) / d
    return weights[0] * agree + weights[1] * spread + weights[2] * shared


def towers(count):
    return lambda b, d: [(b, d)] * count


def permutations(modalities):
    def draw(rng, b):
        return np.array([[rng.permutation(b) for _ in range(modalities - 1)] for _ in range(modalities)])

    return lambda rng, b: {"permutations": draw(rng, b)}


def mixing(rng, b):
    order = rng.permutation(b)
    order[np.argwhere(order == 0)[0, 0]], order[0] = order[0], 0  # a row that stays in place
    return {"permutation": order, "coefficients": np.where(rng.random(b) < 0.5, 1.0, rng.beta(0.5, 0.5, b))}


def regression(rng, b):
    return {"labels": rng.integers(0, 7, b), "coefficients": rng.beta(2, 8, (2 * b, 2 * b))}


def supremix_case(**options):
    names = {"negatives": "mix_negatives", "positives": "mix_positives", "shared": "shared_shift"}
    own = {names.get(k, k): v for k, v in options.items()}
    return Case(
        lambda z, s, **e: supremix(*z, scale=s, **own, **e),
        lambda z, s, **e: naive_supremix(z, s, **options, **e),
        towers(2),
        regression,
    )


def grouping_case(**options):
    return Case(
        lambda z, s: grouping(*z[:-1], scale=s, patches=z[-1], **options),
        lambda z, s: naive_grouping(z, s, **options),
        lambda b, d: [(b, d)] * 2 + [(b, 5, d)],
    )


def multilinear_case(count):
    loss = multilinear.multilinear
    return Case(lambda z, s, **e: loss(*z, scale=s, **e), naive_multilinear, towers(count), permutations(count))


def all_case(count):
    loss = multilinear.multilinear
    return Case(lambda z, s: loss(*z, scale=s, negatives="all"), naive_multilinear, towers(count))


WIDE = np.array([8.0, *[0.5] * 31])  # exact in half precision
CASES = {
    "multilinear-2": multilinear_case(2),
    "multilinear-3": multilinear_case(3),
    "multilinear-4": multilinear_case(4),
    "multilinear-all-2": all_case(2),
    "multilinear-all-3": all_case(3),
    "supremix": supremix_case(),
    "supremix-near": supremix_case(window=2.5),
    "supremix-plain": supremix_case(weighted=False),
    "supremix-negatives": supremix_case(positives=False),
    "supremix-positives": supremix_case(negatives=False),
    "supremix-shifts": supremix_case(shared=False),
    "supremix-shifts-positives": supremix_case(shared=False, negatives=False),
    "unique": Case(
        lambda z, s, labels: unique.unique_contrast(*z, labels=labels),
        naive_unique,
        towers(2),
        lambda rng, b: {"labels": rng.integers(-2, 4, b)},
    ),
    "mixup": Case(lambda z, s, **e: mixup(*z, s, **e), naive_mixup, towers(2), mixing),
    "mixture_contrast": Case(
        lambda z, s, permutation, coefficients: mixture_contrast(
            *z, s, permutation=permutation, coefficients=coefficients
        ),
        lambda z, s, permutation, coefficients: naive_mixture(z[0], z[1], s, permutation, coefficients),
        towers(2),
        mixing,
    ),
    "soft_clip": Case(lambda z, s: soft_clip(*z, s), naive_soft_clip, towers(2)),
    "multi_positive": Case(
        lambda z, s: multi_positive(*z, scale=s),
        lambda z, s: sum(naive_infonce(z[0], t, s) for t in z[1:]) / (len(z) - 1),
        towers(4),
    ),
    "grouping": grouping_case(),
    "grouping-half": grouping_case(threshold=0.5),
    "grouping-softmax": grouping_case(weighting="softmax", threshold=-1.0),
    "variance_covariance": Case(lambda z, s: variance_covariance(*z), naive_variance_covariance, towers(2)),
    "variance_covariance-spread": Case(  # of which one dimension is above the hinge, and others are below
        lambda z, s: variance_covariance(*(x * WIDE[: x.shape[1]].astype(x.dtype)[None] for x in z), invariance=1.0),
        lambda z, s: naive_variance_covariance([x * WIDE[: x.shape[1]] for x in z], s, (1.0, 25.0, 1.0)),
        towers(2),
    ),
    "absolute_error": Case(
        lambda z, s, labels: absolute_error(z[0][:, :1], labels=labels),
        lambda z, s, labels: sum(abs(z[0][i, 0] - labels[i]) for i in range(len(labels))) / len(labels),
        towers(1),
        lambda rng, b: {"labels": rng.integers(-3, 4, b)},
    ),
    "classification": Case(
        lambda z, s, labels: classification(*z, labels=labels),
        lambda z, s, labels: cross_entropy(z[0], jnp.eye(z[0].shape[1])[labels]),
        towers(1),
        lambda rng, b: {"labels": rng.integers(0, 3, b)},
    ),
    "classification-mixed": Case(
        lambda z, s, **e: classification(*z, **e),
        lambda z, s, labels, permutation, coefficients: cross_entropy(
            z[0],
            coefficients[:, None] * np.eye(z[0].shape[1])[labels]
            + (1 - coefficients[:, None]) * np.eye(z[0].shape[1])[labels[permutation]],
        ),
        towers(1),
        lambda rng, b: {"labels": rng.integers(0, 3, b), **mixing(rng, b)},
    ),
    "consensus": Case(
        lambda z, s, counts: consensus(*z, counts=counts),
        naive_consensus,
        lambda b, d: [(b, 7)],
        lambda rng, b: {"counts": rng.integers(0, 4, (b, 7))},
    ),
}
EVERY = pytest.mark.parametrize("name", CASES)


def inputs(name, b, d=4, seed=0, scale=4.0, dtype=np.float64):
    """Unit rows, a scale, and extras in 32 bits with float32."""
    case, rng = CASES[name], np.random.default_rng(seed)
    arrays = [
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in map(rng.normal, [0] * 9, [1] * 9, case.shapes(b, d))
    ]
    extras = case.extras(rng, b)
    if dtype == np.float32:
        extras = {k: v.astype(np.float32 if v.dtype.kind == "f" else np.int32) for k, v in extras.items()}
    return [jnp.asarray(x, dtype) for x in arrays], jnp.asarray(scale, dtype), extras


def value_and_grads(function, z, scale, extras):
    return jax.jit(jax.value_and_grad(lambda z, s, e: function(z, s, **e), argnums=(0, 1)))(z, scale, extras)


@EVERY
@pytest.mark.parametrize(("b", "d", "seed"), [(5, 4, 0), (7, 3, 1)])
def test_value_and_gradients_are_those_of_the_naive_loss(name, b, d, seed):
    with jax.enable_x64(True):
        z, scale, extras = inputs(name, b, d, seed)
        got = value_and_grads(CASES[name].loss, z, scale, {k: jnp.asarray(v) for k, v in extras.items()})
        naive = jax.jit(jax.value_and_grad(lambda z, s: CASES[name].naive(z, s, **extras), argnums=(0, 1)))
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            expected = naive(z, scale)
        assert got[0].dtype == jnp.float64
        jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-11), got, expected)


@EVERY
def test_eight_devices_give_the_numbers_of_one(name):
    z, scale, extras = inputs(name, 8 if "all" in name else 16, 6, dtype=np.float32)
    expected = jax.device_get(value_and_grads(CASES[name].loss, z, scale, extras))
    mesh = make_mesh(replica=2, data=2, fsdp=2)
    where = lambda x: batch_sharding(mesh) if np.ndim(x) and len(x) % 8 == 0 else replicated(mesh)  # noqa: E731
    arguments = jax.tree.map(lambda x: jax.device_put(x, where(x)), (z, scale, extras))
    with jax.set_mesh(mesh):
        got = value_and_grads(CASES[name].loss, *arguments)
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=1e-5 * max(1e-2, float(np.abs(e).max())))


def reordered(extras, order):
    """Extras of the same examples in another order."""
    place = np.argsort(order)
    double = np.concatenate([order, len(order) + order])

    def one(name, x):
        if name.startswith("permutation"):
            return place[x[..., order]]
        return x[double][:, double] if name == "coefficients" and x.ndim == 2 else x[order]

    return {k: one(k, v) for k, v in extras.items()}


@EVERY
def test_order_of_the_examples_does_not_matter(name):
    order = np.random.default_rng(5).permutation(8)
    if name == "unique":
        pytest.skip("which of equal answers stands for all depends on the order")
    with jax.enable_x64(True):
        z, scale, extras = inputs(name, 8)
        value, (grads, _) = value_and_grads(CASES[name].loss, z, scale, extras)
        again, (grads_again, _) = value_and_grads(
            CASES[name].loss, [x[order] for x in z], scale, reordered(extras, order)
        )
        np.testing.assert_allclose(again, value, rtol=1e-10)
        for g, e in zip(grads_again, grads, strict=True):
            np.testing.assert_allclose(g, e[order], rtol=1e-9, atol=1e-12)


@EVERY
def test_finite_for_extreme_scales_and_inputs(name):
    loss = jax.jit(jax.value_and_grad(lambda z, s, e: CASES[name].loss(z, s, **e), argnums=(0, 1)))
    for scale in (1e-2, 1.0, 1e3):
        z, s, extras = inputs(name, 8, scale=scale, dtype=np.float32)
        same = [jnp.broadcast_to(x[:1], x.shape) for x in z]
        for arrays in (z, same, [jnp.zeros_like(x) for x in z]):
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(loss(arrays, s, extras)))


@EVERY
def test_half_precision_gives_float32(name):
    z, scale, extras = inputs(name, 8, 16, dtype=np.float32)
    half = [x.astype(jnp.bfloat16) for x in z]
    value, (grads, _) = value_and_grads(CASES[name].loss, half, scale, extras)
    exact, _ = value_and_grads(CASES[name].loss, [x.astype(jnp.float32) for x in half], scale, extras)
    assert value.dtype == jnp.float32 and {g.dtype for g in grads} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(value, exact, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "b", "whole"),
    [
        ("multilinear-3", 8192, 8192**2),
        ("multilinear-all-3", 128, 128**3),
        ("mixup", 8192, 8192**2),
        ("soft_clip", 16384, 16384**2),
        ("unique", 8192, 8192**2),
        ("supremix", 256, 512**3),
    ],
)
def test_memory_is_far_below_all_pairs(name, b, whole):
    z, scale, extras = inputs(name, 8, dtype=np.float32)
    grow = {8: b, 16: 2 * b}
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct([grow.get(n, n) for n in np.shape(x)], x.dtype), (z, scale, extras)
    )
    program = jax.jit(jax.value_and_grad(lambda z, s, e: CASES[name].loss(z, s, **e), argnums=(0, 1))).lower(*shapes)
    assert program.compile().memory_analysis().temp_size_in_bytes < 4 * whole / 2


def test_two_modalities_with_all_tuples_are_infonce():
    with jax.enable_x64(True):
        (a, b), scale, _ = inputs("multilinear-all-2", 6)
        np.testing.assert_allclose(multilinear.multilinear(a, b, scale=scale, negatives="all"), infonce(a, b, scale))


def test_only_the_triple_tells_exclusive_or():
    """What pairs cannot see: the product of two signs is a third, and each two of them are independent."""
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=2)), np.float32)
    a, b = signs.T
    queries = jnp.asarray(b[:, None]), jnp.asarray((a * b)[:, None])
    candidates = jnp.array([[1.0], [-1.0]])
    triple = np.asarray(multilinear.multilinear_scores(*queries, candidates=candidates))
    pairs = np.asarray(multilinear.pairwise_scores(*queries, candidates=candidates))
    np.testing.assert_array_equal(triple.argmax(1), a < 0)
    np.testing.assert_array_equal(pairs, [[3, -1], [-1, 3], [-1, -1], [-1, -1]])


def test_draws():
    key = jax.random.key(3)
    orders = np.asarray(draw_permutations(key, 3, 50))
    assert orders.shape == (3, 2, 50) and (np.sort(orders, -1) == np.arange(50)).all()
    assert len({tuple(o) for o in orders.reshape(6, 50)}) == 6
    order, share = map(np.asarray, draw_mixing(key, 4000))
    assert (np.sort(order) == np.arange(4000)).all() and abs((share == 1).mean() - 0.5) < 0.1
    coefficients = np.asarray(draw_coefficients(key, 100))
    assert abs(coefficients.mean() - 0.2) < 0.01 and abs(coefficients.std() - np.sqrt(0.16 / 11)) < 0.01


@pytest.mark.parametrize("name", ["multilinear-3", "mixup", "supremix"])
def test_without_draws_a_key_makes_them_and_without_a_key_is_an_error(name):
    z, scale, extras = inputs(name, 8, dtype=np.float32)
    key = jax.random.key(7)
    drawn = {
        "multilinear-3": lambda: {"permutations": draw_permutations(key, 3, 8)},
        "mixup": lambda: dict(zip(("permutation", "coefficients"), draw_mixing(key, 8), strict=True)),
        "supremix": lambda: {"coefficients": draw_coefficients(key, 16)},
    }[name]()
    rest = {k: jnp.asarray(v) for k, v in extras.items() if k not in drawn}
    found = CASES[name].loss(z, scale, rng=key, **rest)
    np.testing.assert_allclose(found, CASES[name].loss(z, scale, **drawn, **rest), rtol=1e-6)
    assert abs(float(found - CASES[name].loss(z, scale, rng=jax.random.key(8), **rest))) > 1e-6
    with pytest.raises(ValueError, match="`rng`"):
        CASES[name].loss(z, scale, **rest)


def test_what_cannot_be_a_tuple_is_an_error():
    z, scale, _ = inputs("multilinear-3", 4, dtype=np.float32)
    with pytest.raises(ValueError, match="two modalities or more, got 1"):
        multilinear.multilinear(z[0], scale=scale)
    with pytest.raises(ValueError, match=r"\[3, 2, B\], got \(2, 1, 4\)"):
        multilinear.multilinear(*z, scale=scale, permutations=draw_permutations(jax.random.key(0), 2, 4))


def test_equal_answers_are_counted_once():
    labels = jnp.array([7, 3, 7, -1, 3])
    first, target, number = unique.unique_labels(labels)
    assert (first.tolist(), target.tolist(), int(number)) == ([0, 1, 0, 3, 1], [2, 1, 2, 0, 1], 3)


def test_counts_of_contrasts():
    positives, negatives = contrast_counts(jnp.array([1.0, 2.0, 3.0, 3.0, 9.0]), window=5.0)
    assert positives.tolist() == [0, 2, 1, 1, 0] and negatives.tolist() == [8, 8, 6, 6, 8]


def test_mix_keeps_rows_with_a_share_of_one():
    x = jnp.arange(6.0).reshape(3, 2)
    mixed = mix(x, permutation=jnp.array([1, 2, 0]), coefficients=jnp.array([1.0, 0.25, 0.0]))
    np.testing.assert_allclose(mixed, [[0, 1], [3.5, 4.5], [0, 1]])
