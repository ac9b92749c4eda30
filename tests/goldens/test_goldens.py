"""The shipped numbers hold, and the harness reports numbers that do not."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from tests.goldens import check, harness

DATA = pathlib.Path(__file__).parent / "data"
CASES = [case for folder in sorted(DATA.iterdir()) for case in harness.load(folder)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_stored_numbers(case):
    found = harness.differences(case, harness.adapter(case.slug)[case.function])
    assert len(found) == len(case.outputs) + len(case.gradients) > 0
    assert {k: v for k, v in found.items() if v > case.tolerance} == {}


@pytest.mark.parametrize("slug", sorted(path.name for path in DATA.iterdir()))
def test_every_array_and_function_is_used(slug):
    cases = [case for case in CASES if case.slug == slug]
    with np.load(DATA / slug / "cases.npz") as file:
        assert len(file.files) == sum(len(c.inputs) + len(c.outputs) + len(c.gradients) for c in cases)
    assert {c.function for c in cases} == set(harness.adapter(slug))


@pytest.mark.parametrize("kind", ["outputs", "gradients"])
def test_a_changed_number_is_reported(kind):
    case = CASES[0]
    for name, value in getattr(case, kind).items():
        changed = value.copy()
        changed.flat[-1] += 3 * case.tolerance * np.abs(value).max()
        wrong = dataclasses.replace(case, **{kind: {**getattr(case, kind), name: changed}})
        found = harness.differences(wrong, harness.adapter(case.slug)[case.function])
        prefix = {"outputs": "out", "gradients": "grad"}[kind]
        assert [k for k, v in found.items() if v > case.tolerance] == [f"{prefix}/{name}"]


def write(folder: pathlib.Path, slug: str, change) -> pathlib.Path:
    """A copy of a slug's folder with its arrays changed."""
    (folder / slug).mkdir()
    (folder / slug / "meta.json").write_bytes((DATA / slug / "meta.json").read_bytes())
    with np.load(DATA / slug / "cases.npz") as file:
        np.savez(folder / slug / "cases.npz", **change(dict(file)))
    return folder


def test_the_command_passes_and_fails(tmp_path, capsys):
    assert check.main(["--data", str(DATA), "--slug", "core-infonce"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == sum(c.slug == "core-infonce" for c in CASES) + 1 and "FAIL" not in printed
    name = "clip_loss.b8/grad/text"
    write(tmp_path, "core-infonce", lambda arrays: {**arrays, name: arrays[name] + 1e-3})
    assert check.main(["--data", str(tmp_path), "--slug", "core-infonce"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1 and "clip_loss.b8" in failed[0] and "grad/text" in failed[0]
    assert check.main(["--data", str(tmp_path), "--slug", "core-siglip"]) == 1  # nothing to check is no success


def test_a_function_that_raises_fails_its_case_alone(tmp_path, capsys):
    write(tmp_path, "core-siglip", lambda arrays: {k: v for k, v in arrays.items() if k != "siglip_loss.b12/in/text"})
    assert check.main(["--data", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert len(failed) == 1 and "KeyError" in failed[0] and "3 of 4" in lines[-1]


def stored(folder: pathlib.Path, function: dict, arrays: dict[str, np.ndarray]) -> harness.Case:
    """One case written to disk and loaded again."""
    (folder / "meta.json").write_text(json.dumps({"slug": "made-up", "functions": [{"name": "f", **function}]}))
    np.savez(folder / "cases.npz", **arrays)
    [case] = harness.load(folder)
    return case


@pytest.mark.parametrize(
    ("where", "scalar", "gradient"),
    [
        ({}, "loss", lambda x: 2 * x),
        ({"gradient_of": "other"}, "other", lambda x: 3 * np.ones_like(x)),
        ({"grad_of": "half_sumsq:y"}, "half_sumsq:y", lambda x: x**3 * 2),
        ({"grad_of": "sum_cubes:y"}, "sum_cubes:y", lambda x: 6 * x**5),
    ],
)
def test_gradients_of_what_the_case_says(tmp_path, where, scalar, gradient):
    x = np.linspace(-1, 1, 4)
    case_keys = {"name": "c.1", "tolerance": 1e-9, "hyperparameters": {"seed": 3, "power": 2}}
    function = {"cases": [case_keys | (where if "gradient_of" in where else {})]} | (
        where if "grad_of" in where else {}
    )
    arrays = {"c.1/in/x": x, "c.1/in/labels": np.arange(4), "c.1/out/y": x**2, "c.1/grad/x": gradient(x)}
    case = stored(tmp_path, function, arrays)

    @harness.ignores()
    def f(inputs, *, power):
        x = inputs["x"]
        assert x.dtype == jnp.float64 and jnp.issubdtype(inputs["labels"].dtype, jnp.integer)
        return {"y": x**power, "loss": (x**2).sum(), "other": 3 * x.sum()}

    assert case.gradient_of == scalar
    assert max(harness.differences(case, f).values()) <= case.tolerance


def test_functions_without_a_loss_and_unknown_hyperparameters(tmp_path):
    function = {"cases": [{"name": "c", "tolerance": 0, "hyperparameters": {"k": 2}}]}
    case = stored(
        tmp_path,
        function,
        {"c/in/x": np.array([3.0, 1.0, 2.0]), "c/out/order": np.array([0, 2]), "c/out/hit": np.array([True])},
    )
    found = harness.differences(
        case, lambda inputs, k: {"order": jnp.argsort(-inputs["x"])[:k], "hit": jnp.array([True])}
    )
    assert found == {"out/order": 0.0, "out/hit": 0.0}
    assert harness.differences(case, lambda inputs, k: {"order": jnp.array([0, 1])}) == {
        "out/order": np.inf,
        "out/hit": np.inf,
    }
    with pytest.raises(TypeError, match="'k'"):
        harness.differences(case, harness.ignores("temperature")(lambda inputs: {}))


@pytest.mark.parametrize(
    ("got", "expected", "answer"),
    [
        ([1.0, 2.0], [1.0, 2.2], 0.2 / 2.2),  # in units of the largest expected value
        ([2e-9], [0.0], 2e-9 / harness.FLOOR),  # or of FLOOR, where that is larger
        ([1.0, -np.inf], [1.0, -np.inf], 0.0),
        ([1.0, np.inf], [1.0, -np.inf], np.inf),
        ([np.nan], [1.0], np.inf),
        ([[1.0]], [1.0], np.inf),
    ],
)
def test_difference(got, expected, answer):
    assert harness.difference(np.array(got), np.array(expected)) == pytest.approx(answer, abs=1e-15)
