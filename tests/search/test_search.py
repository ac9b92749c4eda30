"""An index finds what comparing everything finds; the page shows it."""

import io
import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image

from bigcl.data.sources.arrayrecord import write_arrayrecord
from bigcl.data.tokenizers import TokenizersJSON, train_bpe
from bigcl.embed import embed
from bigcl.embeddings import Rows, Shards
from bigcl.interop.model import Model, Preprocessing, blank, save
from bigcl.registry import ConfigError

pytest.importorskip("faiss", reason="an index needs faiss: pip install 'bigcl[search]'")

from bigcl.search import index as indices
from bigcl.search.engine import Engine
from bigcl.search.index import Index, Keys
from bigcl.search.server import LARGEST, make_server
from tests.search.browser import Browser

WORDS = ["red", "green", "blue", "heart", "flag", "cat", "dog", "moon"]
SIZE = 40


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with random weights, data, their embeddings, and an index of them."""
    root = tmp_path_factory.mktemp("search")
    train_bpe(iter(WORDS * 5), 300).save(str(root / "tokenizer.json"))
    tokenizer = TokenizersJSON(str(root / "tokenizer.json"))
    tower = {"width": 16, "depth": 1, "heads": 2, "embed_dim": 8}
    towers = {
        "image": {"kind": "vit", "image_size": 16, "patch": 8, "pool": "mean", **tower},
        "text": {"kind": "text", "vocab": tokenizer.vocab_size, "length": 8, **tower},
    }
    task, shapes = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": "infonce", "of": list(towers)}]})
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(scale=0.3, size=s).astype(np.float32) for k, s in shapes.items()}
    save(Model(task, arrays, tokenizer, Preprocessing.of([], task["towers"]["image"])), root / "model")
    texts = [" ".join(rng.choice(WORDS, 3)) + f" <{i}>" for i in range(SIZE)]
    write_arrayrecord([{"key": f"n{i}", "image": png(i), "text": t} for i, t in enumerate(texts)], root / "data")
    embed(root / "model", {"kind": "arrayrecord", "paths": str(root / "data")}, root / "embeddings", rows=16)
    Index.build(root / "embeddings").save(root / "index")
    return root


@pytest.fixture(scope="module")
def engine(folder):
    return Engine.open(folder / "index")


@pytest.fixture(scope="module")
def address(engine):
    with make_server(engine, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def images(folder):
    return np.concatenate([rows.embeddings["image"] for rows in Shards.open(folder / "embeddings")])


def order(scores):
    return np.argsort(-scores, kind="stable").tolist()


def test_a_text_finds_its_pictures(folder, engine):
    query = engine.model.encode({"text": engine.model.tokenizer(["red heart"], 8)})["text"][0]
    scores = images(folder) @ query
    hits = engine.by_text("red heart", 7)
    assert [hit.item for hit in hits] == order(scores)[:7]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:7], atol=1e-5)
    assert hits[0].key == f"n{hits[0].item}" and hits[0].text.endswith(f"<{hits[0].item}>") and hits[0].picture


def test_a_picture_finds_itself(engine):
    for item in (0, 17, SIZE - 1):
        best = engine.by_picture(png(item), 3)[0]
        assert best.item == item and best.score == pytest.approx(1, abs=1e-5)
        assert engine.by_item(item, 1)[0].item == item
    with pytest.raises(ConfigError, match="picture"):
        engine.by_picture(b"nonsense", 3)
    with pytest.raises(IndexError, match="there are 40"):
        engine.by_item(SIZE, 3)


def test_an_exported_model_serves_the_same(folder, engine, tmp_path):
    """The embeddings of a run, looked at through its export in another library's layout."""
    from bigcl.export import export

    export(folder / "model", "safetensors", tmp_path / "out", verify=False)
    other = Engine.open(folder / "index", tmp_path / "out")
    for found, expected in zip(other.by_text("blue moon", 5), engine.by_text("blue moon", 5), strict=True):
        assert found.item == expected.item and found.score == pytest.approx(expected.score, abs=1e-5)


def test_weights_of_another_width_are_refused(folder, tmp_path):
    shards = Shards.open(folder / "embeddings")
    other = Shards(tmp_path / "e", {**shards.manifest, "rows": SIZE})
    other.begin()
    x = np.eye(SIZE, 4, dtype=np.float32)
    other.write(0, Rows(np.arange(SIZE), [str(i) for i in range(SIZE)], {"image": x, "text": x}))
    Index.build(tmp_path / "e").save(tmp_path / "index")
    with pytest.raises(ConfigError, match="8 numbers, those of the index 4"):
        Engine.open(tmp_path / "index")


@pytest.mark.parametrize("harm", ["weights", "old"])
def test_an_index_of_other_weights_or_another_make_is_a_plain_error(harm, folder, tmp_path):
    shutil.copytree(folder / "index", tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    if harm == "weights":
        manifest = json.loads(path.read_text())
        manifest["embeddings"]["model"]["weights"] = "0" * 16
        path.write_text(json.dumps(manifest))
    else:
        (tmp_path / "index" / "key_ends.npy").unlink()
    message = "does not hold the weights" if harm == "weights" else "has no key_ends.npy; python -m bigcl.search build"
    with pytest.raises((ConfigError, FileNotFoundError), match=message):
        Engine.open(tmp_path / "index")


def test_a_long_key_makes_no_other_longer():
    names = ["a", "", "日本", "x" * 10_000]
    keys = Keys.joined([Keys.of(names[:2]), Keys.of([]), Keys.of(names[2:])])
    assert [keys[i] for i in range(len(keys))] == names
    assert len(keys.text) == sum(len(name.encode()) for name in names)


def test_many_items_are_found_approximately(monkeypatch, tmp_path):
    """Beyond the limit the index is a graph; it still finds nearly all of the nearest."""
    monkeypatch.setattr(indices, "EXACT", 100)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 16)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    manifest = {"inputs": ["image"], "examples": len(x), "rows": 1000, "format": "npy"}
    shards = Shards(tmp_path / "e", manifest)
    shards.begin()
    for number in range(len(shards)):
        own = np.array(shards.examples(number))
        shards.write(number, Rows(own, [str(i) for i in own], {"image": x[own]}))
    Index.build(tmp_path / "e").save(tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert index.manifest["search"] == "approximate"
    shared = [
        len({i for i, _ in index.nearest(q, 10)} & set(order(x @ q)[:10])) for q in x[rng.integers(0, len(x), 50)]
    ]
    assert np.mean(shared) > 9.5


def test_an_index_needs_all_shards(folder, tmp_path):
    shards = Shards.open(folder / "embeddings")
    Shards(tmp_path, shards.manifest).begin()
    with pytest.raises(ConfigError, match="3 of 3 shards are missing"):
        Index.build(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        Index.build(folder / "embeddings", "imag")


def test_the_commands(folder, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "bigcl.search", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    built = run("build", "--embeddings", folder / "embeddings", "--out", tmp_path, "--input", "text")
    assert built.stdout == f"{tmp_path}: 40 items by text, exact search\n", built.stderr
    (tmp_path / "query.png").write_bytes(png(5))
    found = run("query", "--index", folder / "index", "--image", tmp_path / "query.png", "--json")
    assert json.loads(found.stdout)[0]["key"] == "n5", found.stderr
    assert run("query", "--index", tmp_path / "none", "--text", "x").stderr.startswith("error: --index:")


def get(address, data=None):
    with urllib.request.urlopen(address, data, timeout=60) as response:
        return response.headers, response.read()


def test_the_server(address, engine):
    headers, body = get(f"{address}/search?{urllib.parse.urlencode({'text': 'red heart', 'count': 5})}")
    assert [hit["item"] for hit in json.loads(body)] == [hit.item for hit in engine.by_text("red heart", 5)]
    assert json.loads(get(f"{address}/search?count=1", png(3))[1])[0]["item"] == 3
    headers, body = get(f"{address}/picture/3")
    assert headers["Content-Type"] == "image/png" and Image.open(io.BytesIO(body)).size == (16, 16)
    assert "default-src 'none'" in get(f"{address}/")[0]["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/etc/passwd", None, 404),
        ("/picture/40", None, 404),
        ("/picture/../x", None, 404),
        ("/search?text=", None, 400),
        ("/search?item=x", None, 400),
        ("/search", b"nonsense", 400),
        ("/search", b"x" * (LARGEST + 1), 413),
    ],
)
def test_the_server_refuses(address, path, data, status):
    with pytest.raises(urllib.error.URLError) as error:
        get(address + path, data)
    if isinstance(error.value, urllib.error.HTTPError):  # else the connection was closed on the rest of the body
        assert error.value.code == status and json.loads(error.value.read())["error"]
    else:
        assert status == 413


def test_the_page(address, engine, tmp_path):
    """In a browser without a screen: a text is typed, then a picture is chosen, then an item is clicked."""
    (tmp_path / "query.png").write_bytes(png(5))
    with Browser() as browser:
        browser.go(address)
        browser.type("input[type=search]", "red heart")
        expected = [hit.text for hit in engine.by_text("red heart", 30)]
        browser.wait(lambda: browser.texts(".found .name") == expected)
        assert browser.texts(".asked-for") == ["Near “red heart”"]
        loaded = "return [...document.images].filter(i => i.complete && i.naturalWidth === 16).length"
        browser.wait(lambda: browser.run(loaded) > 0)
        browser.type("input[type=file]", str(tmp_path / "query.png"))
        browser.wait(lambda: browser.texts(".asked-for") == ["Near query.png"])
        assert browser.texts(".found .name")[0].endswith("<5>")
        browser.run("document.querySelectorAll('.found button')[3].click()")
        fourth = engine.by_picture(png(5), 4)[3]
        browser.wait(lambda: browser.texts(".asked-for") == [f"Near “{fourth.text}”"])
        assert browser.texts(".found .name")[0] == fourth.text
        for width in (390, 1280):
            browser.resize(width, 800)
            assert browser.run("return document.documentElement.scrollWidth") <= width
        asked = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert asked and all(name.startswith((address, "blob:", "data:")) for name in asked)
        assert browser.errors() == []
