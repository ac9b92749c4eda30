"""`python -m bigcl.data inspect` and `bench` on a config: what they show is what the loader makes."""

import html.parser
import json
import pathlib
import re
import time

import numpy as np
import pytest

from bigcl.data import bench
from bigcl.data.__main__ import main
from bigcl.data.loader import Loader
from bigcl.data.pipeline import open_pipeline, overridden, read_config
from bigcl.data.sources import BadRecord
from bigcl.data.transforms.naflex import patchify
from bigcl.registry import ConfigError
from bigcl.report.batch import Sample, array_row, pictures, render_batch
from tests.data import formats
from tests.data.test_convert import encoded

EVIL = "</script><img src=x onerror=alert(1)>"
CONFIG = """
def get_config(arg=None):
    return {{
        "seed": 1,
        "train": {{"steps": 3, "batch": 8}},
        "data": {{
            "source": {{"kind": "jsonl", "paths": "{path}", "files": {{"image": "path"}}}},
            "transforms": [
                {{"kind": "decode_image"}}, {{"kind": "resize", "size": [16, 24]}}, {{"kind": "tokenize", "length": 9}},
            ],
            "prefetch": 1,
        }},
        "tokenizer": {{"kind": "bpe", "source": {{"kind": "jsonl", "paths": "{path}"}}, "vocab_size": 300}},
    }}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
    rows = [
        {"image": encoded((30, 20 + i), "PNG"), "text": f"a picture {EVIL if i == 3 else i}", "label": i}
        for i in range(8)
    ]
    formats.write_jsonl(formats.write_pictures(rows, tmp_path), tmp_path / "a.jsonl")
    (tmp_path / "config.py").write_text(CONFIG.format(path=tmp_path / "a.jsonl"))
    return str(tmp_path / "config.py")


class Page(html.parser.HTMLParser):
    """Elements, and that each is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "img", "br"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        self.text += text


def test_inspect(config, tmp_path, capsys):
    main(["inspect", "--config", config, "--out", str(tmp_path / "page.html"), "--rows", "5"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    pictures = [a for name, a in page.elements if name == "img"]
    assert len(pictures) == 5 and all(a["src"].startswith("data:image/") for a in pictures)
    assert not any(name == "script" or "onerror" in a for name, a in page.elements)
    batch = open_pipeline(read_config(config)).loader.host_batch(0)
    shown = [int(m) for m in re.findall(r"example (\d+)\n", page.text)]
    assert shown == batch["index"][:5].tolist()
    assert "16 × 24 × 3" in page.text and "Only the source has path." in page.text
    counts = [int(m) for m in re.findall(r"(\d+) tokens", page.text)]
    assert counts == (batch["text"] != 0).sum(axis=1)[:5].tolist()
    if 3 in shown:
        assert EVIL[:9] in page.text


def test_inspect_shows_patches_videos_and_no_digests(config, tmp_path):
    path = pathlib.Path(config)
    text = path.read_text().replace('"prefetch": 1', '"prefetch": 1, "repeats": ["image", "text"]')
    path.write_text(re.sub(r'{"kind": "resize", .*?}', '{"kind": "naflex", "patch": 8, "tokens": 12}', text))
    pipeline = open_pipeline(read_config(config))
    batch = pipeline.loader.host_batch(0)
    assert batch["repeats"].shape == (8, 2) and batch["image"].shape == (8, 12, 192)
    frames = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 5, 3), np.uint8)
    sample = Sample("x", 0, "made up", 8, {**batch, "video": frames}, [{}] * 8, 0, None, {})
    assert sample.tokens() == ["text", "repeats"] and sample.patches() == ["image"]
    for row in (0, 5):
        (_, picture), (_, video) = pictures(sample, row)
        assert np.array_equal(patchify(picture, 8), batch["image"][row][batch["image_mask"][row]])
        assert np.array_equal(video[:, 5:10], frames[row, 1])
    main(["inspect", "--config", config, "--out", str(tmp_path / "page.html"), "--rows", "5"])
    page = Page((tmp_path / "page.html").read_text())
    assert sum(name == "img" for name, _ in page.elements) == 5
    assert "tokens of text" in page.text and "tokens of repeats" not in page.text


def test_pages_of_other_data():
    batch = {
        "index": np.arange(3),
        "sound": np.random.default_rng(0).standard_normal((3, 20, 8)).astype(np.float32),
        "depth": np.linspace(-1, 1, 3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4, 1),
        "label": np.array([1.0, np.nan, 2.0]),
    }
    sample = Sample("x", 7, "made up", 3, batch, [{"key": b"\x00\xff"}] * 2, None, None, {}, attribution="By Nobody")
    page = Page(render_batch(sample))
    assert sum(name == "img" for name, _ in page.elements) == 2 and "By Nobody" in page.text
    assert array_row("label", batch["label"]) == ("label", "float64", "number", "1", "2", "1.5", "1")


def test_bench(config, capsys):
    main(["bench", "--config", config, "--seconds", "0.2", "--json"])
    numbers = json.loads(capsys.readouterr().out)
    assert [s["stage"] for s in numbers["stages"]] == ["read", "DecodeImage", "Resize", "Tokenize", "stack"]
    assert sum(s["share"] for s in numbers["stages"]) == pytest.approx(1) and numbers["examples"] % 8 == 0
    assert numbers["loader"]["per_second"] > 0 and numbers["bottleneck"] in [s["stage"] for s in numbers["stages"]]
    main(["bench", "--config", config, "--seconds", "0.1"])
    assert "bottleneck: " in capsys.readouterr().out
    main(["bench", "--config", config, "--seconds", "0.1", "--json", "--workers", "0", "1"])
    numbers = json.loads(capsys.readouterr().out)
    assert set(numbers["by_workers"]) == {"0", "1"} and all(rate > 0 for rate in numbers["by_workers"].values())
    assert numbers["by_workers"][str(numbers["loader"]["workers"])] == numbers["loader"]["per_second"]


def test_bench_of_bad_records(config):
    path = pathlib.Path(config)
    path.write_text(path.read_text().replace('"length": 9', '"length": 9, "key": "words"'))
    with pytest.raises(SystemExit, match=r"error: .*no 'words' in the example, which has"):
        main(["bench", "--config", config])
    loader = Loader([{"x": 1}], [refuse], batch=4, seed=0)
    assert bench.make_batch(loader.forms[0].source, [refuse], loader, 0, [bench.Stage(n) for n in "abc"]) == 0


def refuse(example, rng):
    """A transform to which every example is a bad record."""
    raise BadRecord(reason="none will do")


class Slow(list):
    """A source that waits, as for a disk."""

    def __getitem__(self, index):
        time.sleep(0.005)
        return dict(super().__getitem__(index))


def test_bench_tells_waiting_from_working():
    def work(example, rng):
        return {"x": sum(range(2000))}

    source = Slow([{"x": 1}] * 8)
    loader = Loader(source, [work], batch=8, seed=0)
    stages, examples = bench.time_stages(source, [work], loader, 0.2)
    numbers = bench.summary(stages, examples, {2: 100.0, 4: 104.0, 8: 90.0}, loader)
    read, working, _ = numbers["stages"]
    assert numbers["bottleneck"] == "read" and read["waiting"] > 0.5 > working["waiting"]
    table = bench.table(numbers, "slow")
    assert "most of it waiting" in table and "by workers: 2: 100, 4: 104, 8: 90; set data.workers = 2" in table


def test_same_random_numbers_as_the_loader():
    seen = []

    def draw(example, rng):
        seen.append(float(rng.random()))
        return {"x": seen[-1]}

    source = [{"x": 1}] * 5
    loader = Loader(source, [draw], batch=20, seed=4)
    bench.make_batch(source, [draw], loader, 3, [bench.Stage(n) for n in ("read", "draw", "stack")])
    drawn = list(seen)
    assert drawn == loader.host_batch(3)["x"].tolist()


def test_overrides(config, capsys):
    given = read_config(config)
    flags = ["--config.train.batch=4", "--config.data.workers", "1", "--config.seed=7", "--config.data.block=2"]
    found = overridden(given, flags)
    assert found["train"] == {"steps": 3, "batch": 4} and found["seed"] == 7
    assert found["data"] == {  # of workers and block the file says nothing
        **given["data"],
        "transforms": found["data"]["transforms"],
        "workers": 1,
        "block": 2,
    }
    assert open_pipeline(overridden(given, ["--config.train.batch=4"])).loader.batch == 4
    main(["bench", "--config", config, "--seconds", "0.1", "--json", "--config.train.batch=4"])
    assert json.loads(capsys.readouterr().out)["loader"]["batch"] == 4
    for flag, message in (
        ("--config.data.wrokers=1", "no key .*wrokers"),
        ("--config.train.batch=few", "batch"),
        ("--unknown=3", "Unknown command line flag 'unknown'"),
        ("extra", "unexpected argument 'extra'"),
    ):
        with pytest.raises(ConfigError, match=message):
            overridden(given, [flag])
    with pytest.raises(SystemExit, match="error: config: no key"):
        main(["inspect", "--config", config, "--config.data.wrokers=1"])


def test_errors_are_one_line(tmp_path):
    for command in ("inspect", "bench"):
        with pytest.raises(SystemExit, match=r"error: --config: no file nowhere\.py"):
            main([command, "--config", "nowhere.py"])
    (tmp_path / "c.json").write_text('{"data": {}}')
    with pytest.raises(SystemExit, match="error: data: missing key 'source'"):
        main(["bench", "--config", str(tmp_path / "c.json")])
    with pytest.raises(SystemExit):
        main(["unknown"])
