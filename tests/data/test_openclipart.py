"""Debian's clip art: a small folder of the same layout, and the package itself where it is installed."""

import hashlib
import pathlib
import pickle
import struct

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bigcl.data.loader import Loader
from bigcl.data.sources import BadRecord, place
from bigcl.data.sources.openclipart import FOLDER, OpenClipart, plain_text, words
from bigcl.data.transforms.image import DecodeImage, Resize
from bigcl.registry import build


def draw(folder, key, **texts):
    file, chunks = folder / f"{key}.png", PngInfo()
    file.parent.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        chunks.add(b"tEXt", name.encode() + b"\0" + text.encode())
    Image.new("RGBA", (4, 3), (len(key), 0, 0, 255)).save(file, pnginfo=chunks)
    return file


@pytest.fixture
def folder(tmp_path):
    dog = draw(tmp_path, "animals/mammals/dogs/bored_dog_01", Title=" Bored  dog", Author="Jose Hevia")
    (tmp_path / "animals/bored_dog_01.png").symlink_to(dog)
    draw(tmp_path, "animals/birds/puffin-md_02", Description="HASH(0x862bbb8)")
    draw(tmp_path, "geography/aragon_01", Title="Aragón", Author="O&#39;Neill")
    for i in range(57):
        draw(tmp_path, f"shapes/stars/star_{i}", Title="gramastar")
    bomb = draw(tmp_path, "signs/stop")
    data = bytearray(bomb.read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 30_000)
    bomb.write_bytes(data)
    return tmp_path


def read(source):
    return {e["key"]: e for e in map(source.__getitem__, range(len(source)))}


def test_pictures_titles_and_tags(folder):
    found = read(OpenClipart("all", str(folder)))
    assert len(found) == 60 and "signs/stop" not in found and "animals/bored_dog_01" not in found
    dog = found["animals/mammals/dogs/bored_dog_01"]
    assert dog["image"] == (folder / "animals/mammals/dogs/bored_dog_01.png").read_bytes()
    assert (dog["text"], dog["author"], dog["tags"]) == ("Bored dog", "Jose Hevia", ["animals", "mammals", "dogs"])
    puffin = found["animals/birds/puffin-md_02"]
    assert (puffin["text"], puffin["author"], puffin["tags"]) == ("puffin md", None, ["animals", "birds"])
    assert (found["geography/aragon_01"]["text"], found["geography/aragon_01"]["author"]) == ("Aragón", "O'Neill")


def test_the_split_is_by_the_hash_of_the_key(folder):
    parts = {split: read(OpenClipart(split, str(folder))).keys() for split in ("train", "test", "all")}
    assert parts["train"] | parts["test"] == parts["all"] and not parts["train"] & parts["test"]
    assert parts["test"] == {k for k in parts["all"] if int(hashlib.sha256(k.encode()).hexdigest(), 16) % 10 == 0}
    assert parts["test"]
    draw(folder, "shapes/another")
    assert parts["test"] <= read(OpenClipart("test", str(folder))).keys() <= parts["test"] | {"shapes/another"}


def test_batches_and_pickles(folder):
    source = build("source", {"kind": "openclipart", "split": "all", "path": str(folder)})
    batch = Loader(source, [DecodeImage(), Resize([8, 8])], batch=60, seed=0).host_batch(0)
    assert batch["image"].shape == (60, 8, 8, 3)
    reds = [len(source.keys[i]) for i in batch["index"]]
    assert np.array_equal(batch["image"][:, 4, 4], [[red, 0, 0] for red in reds])
    assert read(pickle.loads(pickle.dumps(source))) == read(source)
    assert source.identity != OpenClipart("train", str(folder)).identity
    for index in (-1, 60):
        with pytest.raises(IndexError):
            source[index]


def test_broken_and_missing_files_are_bad_records(folder):
    source = OpenClipart("all", str(folder))
    pathlib.Path(source.place(0)[0]).write_bytes(b"")
    pathlib.Path(source.place(1)[0]).unlink()
    for index, reason in ((0, "no picture"), (1, "gone")):
        with pytest.raises(BadRecord, match=reason) as caught:
            source[index]
        assert (caught.value.key, caught.value.shard) == (source.keys[index], place(source, index)[0])


def test_a_missing_package_is_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source\.path: no drawings in .*; apt install openclipart-png"):
        OpenClipart(path=str(tmp_path / "nothing"))


def test_plain_text():
    assert plain_text("Castilla y LeÃ³n") == "Castilla y León"
    assert plain_text("León") == "León"
    assert plain_text("日本") == "日本"
    assert plain_text(" \n") == ""


def test_words():
    assert words("Computer-Keyboardlayout-de") == "Computer Keyboardlayout de"
    assert words("people_juliane_krug_01a") == "people juliane krug"
    assert words("_01") == "_01"


@pytest.mark.slow
def test_the_package_itself():
    if not pathlib.Path(FOLDER).is_dir():
        pytest.skip("the package openclipart-png is not installed")
    sizes = [len(OpenClipart(split)) for split in ("train", "test", "all")]
    assert sizes[0] + sizes[1] == sizes[2] == SIZE and sizes[1] == HELD_OUT
    test = list(read(OpenClipart("test")).values())
    assert len({e["image"] for e in test}) == HELD_OUT
    assert all(e["text"].strip() and e["tags"] for e in test)


SIZE, HELD_OUT = 6885, 713
