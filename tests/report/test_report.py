"""The whole page: what it must hold, what it must leave out, what it must not let in."""

import dataclasses
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from bigcl.report import Classes, Gallery, build_report, save_classes, save_gallery
from bigcl.report.numbers import metrics_table
from bigcl.report.run import Run

VOID = {"meta", "br", "img", "link", "input", "hr"}
EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Page(html.parser.HTMLParser):
    """What a browser would meet: elements, attributes, headings; unbalanced elements are an error."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.headings = [], [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        if self.open and self.open[-1] == "h2":
            self.headings.append(" ".join(text.split()))

    def count(self, name: str, part: str = "") -> int:
        """Elements of this name whose class holds `part`."""
        return sum(n == name and part in ["", *(a.get("class") or "").split()] for n, a in self.elements)


def make_gallery(count: int = 40, caption: str = "thing {}", **changes) -> Gallery:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((count, 8))
    sides = [base + 0.6 * rng.standard_normal(base.shape) for _ in range(2)]
    images, texts = ((side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in sides)
    fields = {
        "thumbnails": [rng.integers(0, 256, (8, 10, 3), np.uint8) for _ in range(count)],
        "captions": [caption.format(i) for i in range(count)],
        "groups": [("animals", "plants", None)[i % 3] for i in range(count)],
        "scale": 20.0,
    }
    return Gallery(images=images, texts=texts, **{**fields, **changes})


def make_run(folder: pathlib.Path, rows: list[dict] | None = None, **config) -> pathlib.Path:
    """A workdir of 30 logged steps with two evaluations, or of the given rows."""
    if rows is None:
        rows = []
        for step in range(10, 310, 10):
            row = {"step": step, "loss": 5 / step, "learning_rate": 1e-3, "temperature": 0.07, "grad_norm": 1.0}
            row |= {"ms_per_step": 500.0, "pairs_per_second": 512.0, "input_wait_fraction": 0.01, "skipped_steps": 0}
            rows.append(row)
            if step in (150, 300):
                rows.append(
                    {
                        "step": step,
                        "eval/retrieval/text_to_image/recall@1": step / 1000,
                        "eval/zero_shot/accuracy@1": step / 400,
                    }
                )
    folder.mkdir(parents=True, exist_ok=True)
    environment = config.pop("environment", {"jax": "9.9.9"})
    settings = {"seed": 0, "train": {"steps": 300, "batch": 256}, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_full_report_has_every_section_and_number(tmp_path):
    path = build_report(make_run(tmp_path / "my-run"), make_gallery(attribution="Pictures by Nobody, CC BY-SA 4.0"))
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "my-run" / "report.html"
    assert page.headings == [
        "From text to image",
        "From image to text",
        "The joint space",
        "Similarity",
        "Over the run",
        "Training health",
        "All final numbers",
        "How it was made",
    ]
    for said in (
        "my-run",
        "30.0%",
        "75.0%",
        "2:30",
        "76.8k",
        "9.9.9",
        "Pictures by Nobody, CC BY-SA 4.0",
        "chance 2.5%",
    ):
        assert said in text, said
    assert page.count("rect", "cell") == 24 * 24
    assert page.count("rect", "right") == 24
    assert page.count("g", "point") == 2 * 2 * 40  # in each of two layouts
    layers = {a["data-layer"]: "hidden" in a for _, a in page.elements if "data-layer" in a}
    assert layers == {"t-SNE": False, "PCA": True}
    assert page.count("svg", "chart") == 6 + 2 + 2
    assert len(text) < 600_000


def test_each_query_shows_five_answers_and_marks_the_right_one(tmp_path):
    page = Page(build_report(make_run(tmp_path), make_gallery()).read_text())
    strips = page.count("div", "strip")
    tiles, right, late = page.count("div", "tile"), page.count("div", "right"), page.count("div", "late")
    assert 4 < strips <= 12
    assert tiles == 5 * strips + late
    assert right == strips
    assert page.count("li", "ladder") > 4
    assert page.count("li", "right") == page.count("li", "ladder")


def test_each_picture_is_stored_once(tmp_path):
    text = build_report(make_run(tmp_path), make_gallery()).read_text()
    assert len(re.findall(r"data:image/", text)) == 40
    used, defined = set(re.findall(r'href="#(picture-\d+)"', text)), set(re.findall(r'id="(picture-\d+)"', text))
    assert used == defined


def test_the_page_loads_nothing(tmp_path):
    text = build_report(make_run(tmp_path), make_gallery()).read_text()
    page = Page(text)
    links = [a[key] for _, a in page.elements for key in ("src", "href", "xlink:href", "action", "srcset") if key in a]
    assert links and all(link.startswith(("#", "data:image/")) for link in links)
    assert not re.search(r"@import|url\((?!#)|https?://", text)
    policy = next(
        a["content"] for n, a in page.elements if n == "meta" and "content" in a and "default-src" in a["content"]
    )
    assert policy.startswith("default-src 'none'")


def test_the_policy_lets_the_one_script_run(tmp_path):
    import base64
    import hashlib

    text = build_report(make_run(tmp_path)).read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_names_from_data_are_only_ever_text(tmp_path):
    evil = make_gallery(caption=EVIL + "{}", groups=[EVIL, "b"] * 20, attribution=EVIL, names=(EVIL, "text"))
    rows = [{"step": s, "loss": 1.0, f"eval/{EVIL}/{EVIL}": 0.5, f"eval/{EVIL}/recall@{EVIL}": 0.5} for s in (1, 2)]
    run = make_run(tmp_path, rows, note=EVIL, environment={EVIL: EVIL})
    page = Page(build_report(run, evil).read_text())
    assert [name for name, _ in page.elements].count("script") == 1
    assert page.count("img") == 0
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]


def test_without_data_sections_are_left_out(tmp_path):
    page = Page(build_report(make_run(tmp_path, [], environment={})).read_text())
    assert page.headings == ["How it was made"]
    assert page.count("svg", "chart") == page.count("dl") == page.count("table") == 0


def test_without_a_gallery_the_numbers_come_from_the_log(tmp_path):
    text = build_report(make_run(tmp_path)).read_text()
    assert Page(text).headings == ["Over the run", "Training health", "All final numbers", "How it was made"]
    assert "text → image recall@1" in text and "30.0%" in text


def make_classes(**changes) -> Classes:
    """Three classes, of which "b" never occurs; of "a" two of three are found, of "<c>" none of two."""
    fields = {
        "name": "zero_shot",
        "classes": ["a", "b", "<c>"],
        "labels": np.array([0, 0, 0, 2, 2]),
        "predicted": np.array([0, 0, 1, 0, 1]),
        "confidence": np.array([0.5, 0.9, 0.59375, 0.6875, 0.25], np.float32),
        "worst": np.array([3, 2]),
        "pictures": [np.full((4, 4, 3), shade, np.uint8) for shade in (0, 200)],
        "attribution": "Pictures by Someone",
    }
    return Classes(**{**fields, **changes})


def test_classes_by_accuracy_confusions_and_the_surest_mistakes(tmp_path):
    classes = make_classes()
    assert classes.accuracies() == [("<c>", 0.0, 2), ("a", pytest.approx(2 / 3), 3)]
    assert classes.confused() == [("a", "b", pytest.approx(1 / 3), 1), ("<c>", "a", 0.5, 1), ("<c>", "b", 0.5, 1)]
    save_classes(classes, tmp_path / "classes.npz")
    text = build_report(make_run(tmp_path)).read_text()
    page = Page(text)
    assert page.headings[0] == "Classes" and "Pictures by Someone" in text and "<c>" not in text
    assert page.count("rect", "cell") == 4 and page.count("rect", "right") == 2  # of the classes that occur
    assert "a, taken for a: 2 of 3" in text and "&lt;c&gt;, taken for a: 1 of 2" in text
    assert page.count("img") == 2 and text.index("68.8%") < text.index("59.4%")
    assert build_report(tmp_path, classes=classes).read_text() == text
    (tmp_path / "classes.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"classes\.npz is not"):
        build_report(tmp_path)


def test_where_a_text_is_found_in_its_picture(tmp_path):
    gallery = make_gallery(heat={3: np.array([[0.5, -0.25], [0.0, 0.1]]), 7: np.zeros((2, 2))})
    text = build_report(make_run(tmp_path), gallery).read_text()
    page = Page(text)
    assert "Where in the image" in page.headings and page.count("svg", "look") == 2
    veils = [float(a["fill-opacity"]) for n, a in page.elements if n == "rect" and a.get("class") == "veil"]
    assert veils[:4] == [0.0, 0.88, pytest.approx(0.59, abs=0.01), pytest.approx(0.47, abs=0.01)]
    assert "-0.25 to 0.50" in text and np.isfinite(veils).all()


def test_telemetry_of_every_pair_is_drawn(tmp_path):
    parts = ("positive_similarity", "negative_similarity", "accuracy", "effective_negatives", "alignment")
    names = [f"{pair}/{part}" for pair in ("image_text", "audio_text") for part in parts]
    names += [*(f"{name}/uniformity" for name in ("image", "text", "audio")), "loss_of/laion", "loss_of/emoji"]
    rows = [{"step": s, **{name: 0.1 * s for name in names}} for s in (1, 2, 3)]
    text = build_report(make_run(tmp_path, rows)).read_text()
    titles = re.findall(r'aria-label="(.*?) over steps"', text)
    assert len(titles) == 2 * 4 + 2 and titles[0] == "Cosine in the batch, image text"
    assert text.count(">wrong</text>") == 2 and ">audio</text>" in text
    assert titles[-1] == "Loss by source" and ">laion</text>" in text and ">emoji</text>" in text
    one = build_report(make_run(tmp_path, [{k: v for k, v in r.items() if "audio" not in k} for r in rows])).read_text()
    assert 'aria-label="Cosine in the batch over steps"' in one


@pytest.mark.parametrize("count, has_map", [(1, False), (2, False), (8, True)])
def test_small_galleries(tmp_path, count, has_map):
    page = Page(build_report(make_run(tmp_path), make_gallery(count)).read_text())
    assert ("The joint space" in page.headings) == has_map
    assert ("Similarity" in page.headings) == (count > 1)


def test_a_collapsed_model_and_equal_captions_are_drawn(tmp_path):
    same = np.full((10, 4), 0.5, np.float32)
    changes = {"images": same, "texts": same, "captions": ["same"] * 10, "groups": [None] * 10}
    text = build_report(make_run(tmp_path), dataclasses.replace(make_gallery(10), **changes)).read_text()
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


def test_values_that_are_not_finite_are_not_drawn(tmp_path):
    rows = [{"step": s, "loss": None if s % 2 else 1.0 * s, "grad_norm": float("nan")} for s in range(1, 9)]
    text = build_report(make_run(tmp_path, rows)).read_text()
    assert Page(text).count("svg", "chart") == 1
    assert "NaN" not in text


def test_chance_is_that_of_the_whole_evaluation(tmp_path):
    rows = [{"step": 300, "eval/retrieval/text_to_image/recall@1": 0.5, "eval/retrieval/examples": 5000.0}]
    text = build_report(make_run(tmp_path, rows), make_gallery()).read_text()
    assert "the right image of 5,000 first <b>50.0%</b>" in text
    assert "chance 0.02%" in text


def test_counts_that_never_change_have_no_chart(tmp_path):
    rows = [{"step": s, "eval/zero_shot/examples": 397.0, "eval/zero_shot/accuracy@1": s / 10} for s in (1, 2)]
    text = build_report(make_run(tmp_path, rows)).read_text()
    assert Page(text).count("svg", "chart") == 1
    assert "397" in text


def test_the_best_value_is_the_highest_or_the_lowest_as_it_should(tmp_path):
    keys = ("a/recall@1", "a/median_rank", "a/mean_reciprocal_rank", "a/examples")
    rows = [{"step": s, **{f"eval/{key}": v for key in keys}} for s, v in ((1, 0.25), (2, 0.75), (3, 0.5))]
    ((_, table),) = metrics_table(Run.read(make_run(tmp_path, rows)))
    assert [(row.name, row.last, row.best, row.step) for row in table] == [
        ("recall@1", "50.0%", "75.0%", "2"),
        ("median rank", "0.5", "0.25", "1"),
        ("mean reciprocal rank", "0.5", "0.75", "2"),
        ("examples", "0.5", "", ""),
    ]


def test_a_stopped_run_says_how_far_it_came(tmp_path):
    rows = [{"step": 40, "loss": 1.0}]
    assert "At step 40 of 300." in build_report(make_run(tmp_path, rows)).read_text()


def test_the_stored_gallery_is_found_and_the_page_is_the_same_each_time(tmp_path):
    gallery = make_gallery()
    first = build_report(make_run(tmp_path), gallery).read_text()
    save_gallery(gallery, tmp_path / "gallery.npz")
    assert build_report(tmp_path).read_text() == first


def test_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        build_report(tmp_path)
    make_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('broken\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl is not JSON"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("module", ["jinja2", "sklearn"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, module):
    for name in [name for name in sys.modules if name.split(".")[0] == module or name == "bigcl.report.page"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}.*: pip install 'bigcl\[report\]'"):
        build_report(make_run(tmp_path), make_gallery())


def test_the_command_prints_where_the_page_is(tmp_path):
    make_run(tmp_path / "run")
    command = [sys.executable, "-m", "bigcl.report", "--workdir"]
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, check=True)
    assert pathlib.Path(done.stdout.strip()) == tmp_path / "run" / "report.html"
    failed = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "config.json is missing" in failed.stderr
