"""Linear models against scikit-learn, on one device and eight."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV

from bigcl.evals.linear import logistic, ridge
from tests.evals.reference import mesh, unit

STRENGTHS = (1e-5, 1e-3, 1e-2, 0.1)


def regression(rows, dim=12, outputs=3):
    rng = np.random.default_rng(rows)
    x = unit(rng, rows, dim)
    y = x @ rng.standard_normal((dim, outputs)) + 0.5 * rng.standard_normal((rows, outputs)) + 2
    return x, y.astype(np.float32)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("rows", [7, 41, 203])
def test_ridge_chooses_as_leave_one_out_does(rows, devices):
    x, y = regression(rows)
    model = ridge(x, y, mesh(devices), STRENGTHS)
    reference = RidgeCV(alphas=[rows * s for s in STRENGTHS]).fit(x.astype(np.float64), y)
    assert rows * model.strength == pytest.approx(reference.alpha_)
    np.testing.assert_allclose(model(x), reference.predict(x), atol=2e-4)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_few_shots_of_many_dimensions(devices):
    """Strengths that leave hardly a residual: each example is left out in turn, in float64."""
    rng = np.random.default_rng(7)
    x, y = unit(rng, 12, 64), np.repeat(2 * np.eye(3, dtype=np.float32) - 1, 4, axis=0)
    x += 0.3 * np.repeat(unit(rng, 3, 64), 4, axis=0)
    strengths = [10.0**e for e in range(-9, 3)]
    errors = []
    for strength in strengths:
        error = 0.0
        for i in range(12):
            kept = np.arange(12) != i
            fit = Ridge(alpha=12 * strength, solver="cholesky").fit(x[kept].astype(np.float64), y[kept])
            error += np.square(fit.predict(x[i : i + 1]) - y[i]).sum()
        errors.append(error)
    model = ridge(x, y, mesh(devices), strengths)
    assert model.strength == strengths[int(np.argmin(errors))]
    fit = Ridge(alpha=12 * model.strength).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(model(x), fit.predict(x), atol=1e-4)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_ridge_on_a_path_of_one(strength):
    x, y = regression(41)
    reference = Ridge(alpha=41 * strength).fit(x.astype(np.float64), y)
    model = ridge(x, y, mesh(8), [strength])
    np.testing.assert_allclose(model.weights, reference.coef_.T, atol=2e-4)
    np.testing.assert_allclose(model.bias, reference.intercept_, atol=1e-5)


def test_ridge_of_equal_rows_predicts_the_mean():
    y = np.arange(5, dtype=np.float32)[:, None]
    model = ridge(np.ones((5, 4), np.float32), y, mesh(8), STRENGTHS)
    np.testing.assert_allclose(model(np.ones((1, 4), np.float32)), [[2.0]], atol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_logistic_regression(devices):
    rng = np.random.default_rng(0)
    x = unit(rng, 101, 12)
    target = (x @ rng.standard_normal((12, 4)) + 0.3 * rng.standard_normal((101, 4))).argmax(1)
    for model in logistic(x, target, 4, mesh(devices), STRENGTHS[1:]):
        peer = LogisticRegression(C=1 / (101 * model.strength), tol=1e-8, max_iter=10_000).fit(
            x.astype(np.float64), target
        )
        np.testing.assert_allclose(model(x) - model(x).mean(1, keepdims=True), peer.decision_function(x), atol=5e-3)


def test_logistic_regression_of_one_class():
    x = unit(np.random.default_rng(0), 9, 4)
    (model,) = logistic(x, np.zeros(9, np.int32), 1, mesh(8), [1e-2])
    np.testing.assert_array_equal(model.weights, 0)
