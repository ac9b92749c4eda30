"""The small functions that drawings are made of."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from markupsafe import Markup

from bigcl.report.figures import Line, apart, line_chart, push_apart, smoothed
from bigcl.report.run import duration, percent, short
from bigcl.report.svg import data_uri, tag, ticks


def test_a_tag_escapes_all_but_markup():
    made = tag("g", "<&>", Markup("<b/>"), class_="a", data_name='"x"', skipped=None, x=1.25)
    assert made == '<g class="a" data-name="&#34;x&#34;" x="1.2">&lt;&amp;&gt;<b/></g>'


@pytest.mark.parametrize(
    "low, high", [(0, 480), (0.0345, 0.071), (-0.57, 0.63), (5e6, 9e6), (0, 3e-7), (99.99, 100.01)]
)
def test_ticks_are_few_round_and_inside(low, high):
    marks = ticks(low, high, 4)
    steps = np.diff(marks)
    assert 2 <= len(marks) <= 5
    assert low - 1e-9 <= marks[0] and marks[-1] <= high + 1e-9 * abs(high)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_smoothing_keeps_straight_lines_and_calms_noise():
    noise = np.random.default_rng(0).standard_normal(300)
    np.testing.assert_allclose(smoothed(np.full(300, 3.0)), 3.0)
    assert smoothed(noise).std() < 0.3 * noise.std()
    np.testing.assert_allclose(smoothed(np.arange(300.0))[100:200], np.arange(100.0, 200.0))  # no lag
    few = np.array([1.0, 5.0, 2.0])
    np.testing.assert_array_equal(smoothed(few), few)


def test_labels_are_moved_apart_and_kept_in_the_frame():
    placed = apart([150.0, 20.0, 152.0, 158.0], gap=12, most=160)
    assert placed[1] == 20.0
    assert np.diff(sorted(placed)).min() >= 12 and max(placed) <= 160
    assert placed[0] < placed[2] < placed[3]
    assert apart([], 12, 160) == []


@pytest.mark.parametrize("y", [[1.0, 1.0], [0.0, 0.0], [-2.0, 1e6], list(range(5000))])
def test_a_chart_is_well_formed_and_inside_its_frame(y):
    line = Line(np.arange(len(y), dtype=float), np.array(y, float), name="<one>", smooth=True, fill=True)
    svg = ET.fromstring(line_chart([line], label='"a" & b'))
    assert svg.get("aria-label") == '"a" & b'
    paths = [p.get("d") for p in svg.iter("path")]
    assert len(paths) == 3
    for path in paths:
        points = np.array([p.split() for p in path.removeprefix("M").split("L")], float)
        assert len(points) <= 602
        assert np.isfinite(points).all()
        assert (points >= 0).all() and (points[:, 0] <= 340).all() and (points[:, 1] <= 190).all()


def test_discs_are_pushed_apart_and_lone_ones_stay():
    crowd = np.random.default_rng(0).uniform(0, 30, (20, 2))
    points = np.vstack([crowd, [[500.0, 500.0]]])
    moved = push_apart(points, np.full(21, 5.0))
    gaps = np.linalg.norm(moved[:, None] - moved, axis=-1) + 100 * np.eye(21)
    assert gaps.min() > 9
    np.testing.assert_allclose(moved[-1], points[-1], atol=0.01)


@pytest.mark.parametrize("shape", [(72, 72, 3), (300, 200, 3), (1, 1, 3)])
def test_pictures_become_small_data(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert data_uri(noise).startswith("data:image/")
    assert len(data_uri(noise)) < 16_000
    assert data_uri(np.full(shape, 200, np.uint8)).startswith("data:image/png;base64,")


def test_numbers_read_well():
    assert [percent(x) for x in (0, 0.0025, 0.5733, 1)] == ["0.0%", "0.25%", "57.3%", "100.0%"]
    assert [short(x) for x in (0, 2, 0.01234, 5e-4, 1540, 122_880, 3.4e6)] == [
        "0",
        "2",
        "0.0123",
        "5e-04",
        "1,540",
        "123k",
        "3.4M",
    ]
    assert [duration(x) for x in (4.26, 41, 230, 18_120)] == ["4.3 s", "41 s", "3 min 50 s", "5 h 02 min"]
