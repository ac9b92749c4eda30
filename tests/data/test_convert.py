"""What is converted is read back the same, in whatever parts and after whatever interruption it was written."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from bigcl.data.__main__ import main
from bigcl.data.convert import convert, members, reduce
from bigcl.data.sources import BadRecord
from bigcl.data.sources.arrayrecord import ArrayRecord
from tests.data import formats


def encoded(size, kind="JPEG", mode="RGB", **options):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    smooth = smooth.convert(mode)
    if mode == "RGBA":
        smooth.putalpha(128)
    smooth.save(out, kind, **options)
    return out.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


class Examples(list):
    """A source; None stands for a bad record."""

    name = "examples"

    def __getitem__(self, index):
        if super().__getitem__(index) is None:
            raise BadRecord(self.name, str(index), "a.bin", 10 * index, "broken")
        return super().__getitem__(index)


@pytest.fixture
def source():
    picture = encoded((20, 10), "PNG")
    return Examples({"image": picture, "text": f"größe {i}", "n": i, "x": np.float32([i, 0.5])} for i in range(23))


def read(folder):
    source = ArrayRecord(str(folder))
    return [source[i] for i in range(len(source))]


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_parts_together_are_the_whole(source, tmp_path):
    for part in (2, 0, 1):
        convert(source, tmp_path, per_shard=5, part=(part, 3))
    same(read(tmp_path), source)
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == [
        *(f"0000{i}.array_record" for i in range(5)),
        "convert.json",
    ]
    array = read(tmp_path)[3]["x"]
    assert array.dtype == np.float32 and array.tolist() == [3, 0.5]


def test_tars_hold_the_members_and_are_the_same_each_time(source, tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert convert(source, folder, "webdataset", per_shard=20) == (23, 0, 0)
    with tarfile.open(tmp_path / "a" / "00001.tar") as tar:
        names = tar.getnames()
        assert names[:4] == ["000000020.png", "000000020.txt", "000000020.x.npy", "000000020.json"]
        content = {name: tar.extractfile(name).read() for name in names[:4]}
    assert content["000000020.png"] == source[20]["image"] and content["000000020.txt"].decode() == "größe 20"
    assert json.loads(content["000000020.json"]) == {"n": 20}
    assert np.load(io.BytesIO(content["000000020.x.npy"])).tolist() == [20, 0.5]
    assert (tmp_path / "a" / "00001.tar").read_bytes() == (tmp_path / "b" / "00001.tar").read_bytes()


def test_members_of_other_kinds():
    example = {"image": b"?", "mask": encoded((4, 4), "PNG"), "text": b"a", "tags": [b"x", np.int64(2)], "none": None}
    found = dict(members(example))
    assert set(found) == {"image.bin", "mask.png", "txt", "json"}
    assert json.loads(found["json"]) == {"tags": ["x", 2], "none": None}
    with pytest.raises(ValueError, match="cannot hold object"):
        dict(members({"what": object()}))


def test_finished_shards_are_kept_and_missing_ones_made(source, tmp_path):
    convert(source, tmp_path, per_shard=5)
    (tmp_path / "00002.array_record").unlink()
    (tmp_path / ".00002.array_record.partial").write_bytes(b"half")
    before = (tmp_path / "00001.array_record").stat().st_mtime_ns
    assert convert(source, tmp_path, per_shard=5) == (5, 0, 4)
    assert (tmp_path / "00001.array_record").stat().st_mtime_ns == before
    same(read(tmp_path), source)


def test_killed_and_started_again(tmp_path):
    part = {"kind": "synthetic", "size": 3000, "spec": {"x": {"shape": [3000], "dtype": "uint8"}}}
    command = [sys.executable, "-m", "bigcl.data", "convert", "--source", json.dumps(part), "--to", "arrayrecord"]
    command += ["--out", str(tmp_path / "out"), "--per-shard", "300"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    while not list((tmp_path / "out").glob("0*")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = len(list((tmp_path / "out").glob("0*")))
    main(command[3:])
    assert left >= 1
    found = read(tmp_path / "out")
    assert len(found) == 3000 and all(found[i]["x"].shape == (3000,) for i in (0, 1500, 2999))


def test_a_folder_holds_one_conversion(source, tmp_path):
    convert(source, tmp_path, per_shard=5)
    with pytest.raises(ValueError, match="was written with per_shard 5, not 6; choose another --out"):
        convert(source, tmp_path, per_shard=6)
    with pytest.raises(ValueError, match="was written with source"):
        convert(Examples(source[:20]), tmp_path, per_shard=5)


def test_bad_records_are_left_out_and_listed(source, tmp_path):
    source[7] = None
    with pytest.raises(ValueError, match=r"1 of 5 examples are bad.*examples, a.bin, byte 70, 7: broken"):
        convert(source, tmp_path, per_shard=5)
    assert not (tmp_path / "00001.array_record").exists()
    assert convert(source, tmp_path, per_shard=5, max_bad_fraction=0.2) == (17, 1, 1)
    listed = json.loads((tmp_path / "00001.bad.jsonl").read_text())
    assert listed == {"source": "examples", "key": "7", "shard": "a.bin", "offset": 70, "reason": "broken"}
    same(read(tmp_path), [e for i, e in enumerate(list.__iter__(source)) if i != 7])


def test_broken_pictures_are_bad_records(source, tmp_path):
    whole = encoded((64, 64))
    source[0] = {**source[0], "image": whole[: len(whole) // 2]}
    source[1] = {**source[1], "image": b"no picture"}
    source[2] = {"text": "none"}
    assert convert(source, tmp_path, size=8, max_bad_fraction=0.2) == (20, 3, 0)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "00000.bad.jsonl").open()]
    assert "truncated" in reasons[0] and "cannot identify" in reasons[1] and "the example has text" in reasons[2]


@pytest.mark.parametrize(
    "kind, mode, becomes",
    [
        ("JPEG", "RGB", "JPEG"),
        ("JPEG", "L", "JPEG"),
        ("JPEG", "CMYK", "JPEG"),
        ("PNG", "RGB", "PNG"),
        ("PNG", "P", "PNG"),
        ("PNG", "RGBA", "PNG"),
        ("WEBP", "RGB", "JPEG"),
        ("WEBP", "RGBA", "PNG"),
        ("GIF", "P", "PNG"),
        ("BMP", "RGB", "JPEG"),
    ],
)
def test_reduced_pictures(kind, mode, becomes):
    data = encoded((300, 200), kind, mode)
    small = opened(reduce(data, 50))
    assert small.format == becomes and small.size == (75, 50)
    reference = opened(data).convert("RGB").resize((75, 50), Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(small.convert("RGB"), float) - np.asarray(reference, float))
    assert difference.mean() < 3
    assert reduce(data, 200) is data


def test_reduced_pictures_stand_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    small = opened(reduce(encoded((300, 200), exif=exif.tobytes()), 50))
    assert small.size == (50, 75) and 0x0112 not in small.getexif()


def test_no_aliasing():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255  # of one pixel: their mean is what a small picture may show
    out = io.BytesIO()
    Image.fromarray(stripes).save(out, "PNG")
    small = np.asarray(opened(reduce(out.getvalue(), 60)))
    assert abs(small.astype(float) - 127.5).max() < 12


def test_command(tmp_path, capsys):
    rows = formats.write_pictures([{"image": encoded((40, 30)), "text": str(i)} for i in range(4)], tmp_path)
    formats.write_jsonl(rows, tmp_path / "a.jsonl")
    part = json.dumps({"kind": "jsonl", "paths": str(tmp_path), "files": {"image": "path"}})
    main(["convert", "--source", part, "--to", "arrayrecord", "--out", str(tmp_path / "o"), "--size", "15"])
    assert "4 examples written, 0 bad ones left out, 0 shards were there already" in capsys.readouterr().out
    assert opened(read(tmp_path / "o")[3]["image"]).size == (20, 15)
    for arguments, message in ((["--shard", "3/3"], "--shard"), (["--source", "{"], "--source")):
        with pytest.raises(SystemExit):
            main(["convert", "--source", part, "--to", "arrayrecord", "--out", "x", *arguments])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="error: source: unknown source 'jsnl'; did you mean 'jsonl'"):
        main(["convert", "--source", '{"kind": "jsnl"}', "--to", "arrayrecord", "--out", "x"])
