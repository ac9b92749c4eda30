"""Tars as people have them give the samples that were written; broken ones give the documented errors and no others."""

import concurrent.futures
import io
import itertools
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bigcl.data import shard_index, storage, tar
from bigcl.data.loader import Loader
from bigcl.data.sources import BadRecord
from bigcl.data.sources.arrayrecord import write_arrayrecord
from bigcl.data.sources.emoji import Emoji
from bigcl.data.sources.webdataset import WebDataset, unpack
from bigcl.registry import build, resolve
from tests.data.servers import http_server

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
QUICK = {"request": 5.0, "attempts": 30, "delay": 0.01, "longest_delay": 0.03}


def sample(i, size=700):
    return {"jpg": bytes([i % 256]) * (size + i), "txt": f"größe {i}".encode(), "json": json.dumps({"n": i}).encode()}


def archive(members, format=tarfile.USTAR_FORMAT, end=True):
    """A tar of (name or TarInfo, content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as file:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content) if info.isreg() else 0
            file.addfile(info, io.BytesIO(content))
        whole = file.offset
    return out.getvalue() if end else out.getvalue()[:whole]


def link(name, kind, target="0.jpg"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def shard(numbers, format=tarfile.USTAR_FORMAT, prefix=""):
    """A tar in the layout of img2dataset."""
    members = [(f"{prefix}{i:09d}.{e}", c) for i in numbers for e, c in sample(i).items()]
    return archive(members, format)


def expected(i, prefix=""):
    return {"key": f"{prefix}{i:09d}", "image": sample(i)["jpg"], "text": f"größe {i}", "json": {"n": i}}


def read_all(source):
    return [source[i] for i in range(len(source))]


@pytest.fixture
def write(tmp_path):
    """Writes shards 00000.tar, 00001.tar, ... and gives their folder."""

    def write_shards(*shards):
        for n, content in enumerate(shards):
            (tmp_path / f"{n:05d}.tar").write_bytes(content)
        return str(tmp_path)

    return write_shards


class TestReads:
    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("prefix", ["", "./", "folder/", "größe/" * 20])  # the last needs a header for long names
    def test_every_tar_format(self, write, format, prefix):
        folder = write(*(shard(range(n, n + 5), FORMATS[format], prefix) for n in (0, 5)))
        source = WebDataset(folder)
        assert read_all(source) == [expected(i, prefix.removeprefix("./")) for i in range(10)]
        assert source.faults == []

    def test_what_the_writer_of_webdataset_writes(self, tmp_path):
        wds = pytest.importorskip("webdataset")
        with wds.ShardWriter(f"{tmp_path}/%05d.tar", maxcount=4, verbose=0) as writer:
            for i in range(10):
                image = np.full((4, 4, 3), i, np.uint8)
                writer.write({"__key__": f"{i:04d}", "png": image, "txt": f"größe {i}", "cls": i, "json": {"n": [i]}})
        source = build("source", {"kind": "webdataset", "shards": f"{tmp_path}/{{00000..00002}}.tar"})
        assert len(source) == 10
        for i, e in enumerate(read_all(source)):
            assert e["image"].startswith(b"\x89PNG") and (e["key"], e["text"]) == (f"{i:04d}", f"größe {i}")
            assert e["cls"] == i and e["json"] == {"n": [i]}

    def test_what_gnu_tar_writes(self, tmp_path):
        folder = tmp_path / ("long" * 20) / ("path" * 15)
        folder.mkdir(parents=True)
        for i in range(3):
            for extension, content in sample(i).items():
                (folder / f"{i:09d}.{extension}").write_bytes(content)
        command = ["tar", "--sort=name", "-cf", "x.tar", "--exclude=x.tar*", "."]
        for format in ("gnu", "ustar", "pax"):
            subprocess.run([*command, f"--format={format}"], cwd=tmp_path, check=True)
            source = WebDataset(str(tmp_path / "x.tar"))
            assert read_all(source) == [expected(i, f"{folder.relative_to(tmp_path)}/") for i in range(3)]
            assert [i.others for i in source.indexes] == [3]  # the folders

    def test_members_by_extension(self, write):
        folder = write(archive([("a.seg.PNG", b"s"), ("a.jpeg", b"i"), ("a.alt.txt", b"x"), ("a.cls", b"7\n")]))
        source = WebDataset(folder, members={"picture": ["png", "jpg", "jpeg"], "label": ["cls"]})
        assert source[0] == {"key": "a", "picture": b"i", "label": 7, "seg.png": b"s", "alt.txt": "x"}

    def test_what_belongs_to_no_sample_is_passed_over(self, write):
        folder = tarfile.TarInfo("0.d")
        folder.type = tarfile.DIRTYPE
        members = [("._0.jpg", b"mac"), ("README", b"r"), ("0.jpg", b"i"), (folder, b""), ("x/", b""), ("0.txt", b"t")]
        source = WebDataset(write(archive(members)))
        assert read_all(source) == [{"key": "0", "image": b"i", "text": "t"}] and source.indexes[0].others == 4

    def test_archives_joined_end_to_end(self, write):
        assert read_all(WebDataset(write(shard([0, 1]) + shard([2])))) == [expected(i) for i in range(3)]

    def test_one_read_of_just_the_sample(self, write, monkeypatch):
        source = WebDataset(write(shard(range(20))))
        spans, read = [], storage.read
        monkeypatch.setattr(storage, "read", lambda path, a, b, *rest: spans.append((path, b - a)) or read(path, a, b))
        assert source[7] == expected(7)
        (index, eight), (path, length) = spans
        assert (index, eight, path) == (source.indexes[0].path, 8, source.shards[0])
        assert length == (3 + 2 + 1 + 1) * 512  # three headers, and the blocks of the three members

    def test_four_bytes_a_sample(self, write):
        source = WebDataset(write(archive([(f"{i}.txt", b"") for i in range(5000)])), members={"text": ["txt"]})
        assert os.path.getsize(source.indexes[0].path) / 5000 < 4.05

    def test_an_index_out_of_range(self, write):
        source = WebDataset(write(shard(range(3))))
        for i in (-1, 3):
            with pytest.raises(IndexError, match=f"index {i} of 3 samples"):
                source[i]

    def test_threads_and_pickles(self, write):
        source = WebDataset(write(*(shard(range(n, n + 5)) for n in (0, 5, 10))))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(source.__getitem__, [*range(15)] * 4)) == [expected(i) for i in range(15)] * 4
        assert read_all(pickle.loads(pickle.dumps(source))) == [expected(i) for i in range(15)]

    def test_the_resolved_config_says_every_deadline(self):
        resolved = resolve(WebDataset, {"shards": "x", "patience": {"attempts": 3}})
        assert resolved["patience"]["attempts"] == 3 and resolved["patience"]["request"] == 60.0


class TestIndex:
    def test_is_made_once(self, write):
        folder = write(shard(range(3)))
        assert [i.built for i in WebDataset(folder).indexes + WebDataset(folder).indexes] == [True, False]
        assert sorted(os.listdir(folder)) == ["00000.tar", "00000.tar.index"]

    @pytest.mark.parametrize("change", ["size", "time", "noise", "cut", "format"])
    def test_a_stale_or_broken_one_is_never_used(self, write, change):
        folder = write(shard(range(3)))
        first = WebDataset(folder)
        path, index = first.shards[0], first.indexes[0].path
        if change == "size":
            write(shard(range(10, 15)))
        elif change == "time":
            write(shard(range(10, 13)))
            os.utime(path, ns=(1, 1))
        else:
            index = pathlib.Path(index)
            data = index.read_bytes()
            data = {"noise": b"\xff" * 50, "cut": data[:-3], "format": data.replace(b'"format": 1', b'"format": 0')}
            index.write_bytes(data[change])
        second = WebDataset(folder)
        assert second.indexes[0].built and (second.identity != first.identity) == (change in ("size", "time"))
        numbers = {"size": range(10, 15), "time": range(10, 13)}.get(change, range(3))
        assert read_all(second) == [expected(i) for i in numbers]

    def test_elsewhere_when_asked_or_when_the_folder_cannot_be_written(self, write, tmp_path, monkeypatch):
        folder = write(shard(range(3)))
        assert WebDataset(folder, index=str(tmp_path / "new" / "folder")).indexes[0].path.startswith(f"{tmp_path}/new")
        monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: str(path) != folder and access(path, mode))
        assert [WebDataset(folder).indexes[0].built for _ in range(2)] == [True, False]
        assert len(list((tmp_path / "cache" / "tar-index").iterdir())) == 1
        assert sorted(os.listdir(folder)) == ["00000.tar", "cache", "new"]

    def test_a_shard_that_is_being_written(self, write, monkeypatch):
        folder = write(shard(range(3)))
        stats = iter([storage.Stat(5120, "1"), storage.Stat(5120, "2")])
        monkeypatch.setattr(storage, "stat", lambda *_: next(stats))
        with pytest.raises(storage.StorageError, match="changed while it was being indexed"):
            WebDataset(folder)
        assert os.listdir(folder) == ["00000.tar"]


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bigcl.data", "index", *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command(write, tmp_path):
    folder = write(shard(range(4)), shard(range(4, 9))[:4400], b"", b"no tar" * 100, shard(range(9, 12)))
    code, out, err = command(f"{folder}/{{00000..00005}}.tar", "--workers=2")
    assert code == 1
    assert out.startswith("6 shards, 8 samples: 5 shards (0.00 GB) indexed in ") and out.endswith("4 with faults\n")
    for line in (
        "00001.tar: byte 3584: truncated inside '000000005.jpg'",
        "00002.tar: byte 0: 0 bytes",
        "00003.tar: byte 0: not a tar archive",
        "00005.tar: not indexed: [Errno 2] No such file",
    ):
        assert f"{folder}/{line}" in err
    (tmp_path / "00000.tar.index").unlink()
    code, out, _ = command(f"{folder}/00000.tar", f"{folder}/00004.tar", "--workers=1")
    assert code == 0 and "2 shards, 7 samples: 1 shards" in out and "1 were up to date, 0 with faults" in out
    assert command(f"{folder}/none-*.tar")[2] == f"error: {folder}/none-*.tar: no .tar or .tar.gz or .tgz files here\n"


class TestBroken:
    def bad(self, folder, reason, index=1, **options):
        """The others are fine, and this one says where it is and what is wrong."""
        source = WebDataset(folder, **options)
        for i in set(range(len(source))) - {index}:
            assert source[i]["image"] is not None
        with pytest.raises(BadRecord, match=reason) as caught:
            source[index]
        shard, start, _ = source.locate(index)
        error = pickle.loads(pickle.dumps(caught.value))
        assert (error.source, error.shard, error.offset) == (source.name, shard, start)
        assert str(error) == str(caught.value) and f"{shard}, byte {start}" in str(error)
        return error

    @pytest.mark.parametrize(
        "second, reason",
        [
            ([("1.jpg", b"i"), ("1.txt", b"\xff\xfe")], "member txt: 'utf-8' codec can't decode"),
            ([("1.jpg", b"i")], "no member txt; it has jpg"),
            ([("1.txt", b"t"), ("1.avi", b"v")], "no member jpg or jpeg or .*; it has txt, avi"),
            ([("1.jpg", b"i"), ("1.txt", b"t"), ("1.json", b"{")], "member json: "),
            ([("1.jpg", b"i"), ("1.txt", b"t"), ("1.json", b"[" * 100_000)], "member json: "),
            ([("1.jpg", b"i"), ("1.txt", b"t"), ("1.cls", b"x")], "member cls: "),
            ([("1.jpg", b"i"), ("1.jpg", b"j"), ("1.txt", b"t")], "two members jpg"),
            ([(link("1.jpg", tarfile.LNKTYPE), b""), ("1.txt", b"t")], "'1.jpg' is a hard link"),
            ([(link("1.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""), ("1.txt", b"t")], "'1.jpg' is a symbolic link"),
            ([(link("1.jpg", tarfile.CHRTYPE), b""), ("1.txt", b"t")], "'1.jpg' is a device"),
            ([("../1.jpg", b"i"), ("../1.txt", b"t")], "the name '../1.jpg' leads out of the archive"),
            ([("/1.jpg", b"i"), ("/1.txt", b"t")], "the name '/1.jpg' leads out"),
            ([("a/../../1.jpg", b"i")], "leads out"),
            ([("1\\..\\..\\1.jpg", b"i")], "leads out"),
        ],
    )
    def test_samples(self, write, second, reason):
        folder = write(archive([("0.jpg", b"i"), ("0.txt", b"t"), *second, ("2.jpg", b"i"), ("2.txt", b"t")]))
        error = self.bad(folder, reason)
        assert "1" in error.key

    def test_a_sparse_file_of_pax(self, write, tmp_path):
        with open(tmp_path / "1.jpg", "wb") as file:
            file.truncate(10_000_000)
            file.write(b"x")
        (tmp_path / "1.txt").write_text("t")
        subprocess.run(["tar", "-S", "--format=pax", "-cf", "x.tar", "1.jpg", "1.txt"], cwd=tmp_path, check=True)
        with pytest.raises(BadRecord, match=r"'1.jpg' is a sparse file"):
            WebDataset(str(tmp_path / "x.tar"))[0]
        subprocess.run(["tar", "-S", "--format=gnu", "-cf", "x.tar", "1.jpg", "1.txt"], cwd=tmp_path, check=True)
        with pytest.raises(ValueError, match=r"no samples.*'1.jpg' is a sparse file"):
            WebDataset(str(tmp_path / "x.tar"))

    def test_a_shard_deleted_or_cut_while_running(self, write):
        folder = write(shard([0]), shard([1]), shard([2]))
        source = WebDataset(folder)
        os.unlink(source.shards[1])
        os.truncate(source.shards[2], 1000)
        assert source[0] == expected(0)
        for i in (1, 2):
            with pytest.raises(BadRecord, match="gone since it was indexed"):
                source[i]

    def test_a_shard_overwritten_while_running(self, write):
        source = WebDataset(write(shard(range(5))))
        write(archive([(f"{i}.jpg", b"x" * 2000) for i in range(20)]))
        for i in range(1, 5):
            with pytest.raises(BadRecord, match="changed since it was indexed"):
                source[i]

    @pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
    def test_compressed_tars_are_refused(self, tmp_path, compression):
        path = tmp_path / "x.tar.gz"
        with tarfile.open(path, f"w:{compression}") as file:
            file.addfile(tarfile.TarInfo("0.jpg"))
        for shards in (str(path), str(tmp_path)):
            with pytest.raises(ValueError, match=r"x.tar.gz, byte 0: compressed with \w+, .*decompress it"):
                WebDataset(shards)

    def test_faults_are_listed_and_the_others_read(self, write):
        source = WebDataset(
            write(
                b"",
                shard([0, 1]),
                b"x" * 2000,
                archive([(f"{i:09d}.{e}", c) for i in (2, 3) for e, c in sample(i).items()], end=False),
            )
        )
        assert read_all(source)[:2] == [expected(0), expected(1)]
        assert [(f.shard[-9:], f.offset, f.reason) for f in source.faults[:2]] == [
            ("00000.tar", 0, "0 bytes"),
            ("00002.tar", 0, "not a tar archive: not a number"),
        ]
        assert source.faults[2].reason == "no end-of-archive mark: it may have been cut here" and len(source) == 3

    def test_a_missing_shard_stops_at_the_start(self, write):
        folder = write(shard([0]))
        with pytest.raises(FileNotFoundError, match=r"00001.tar"):
            WebDataset(f"{folder}/{{00000..00001}}.tar")


NUMBERS = range(6)
WHOLE = shard(NUMBERS, tarfile.PAX_FORMAT, "größe/" * 20)
MEMBERS = list(tar.members(lambda a, b: WHOLE[a:b], 0, len(WHOLE)))
STARTS, CONTENT = [m.start for m in MEMBERS if m.name.endswith("jpg")], MEMBERS[-1].end
LONG = [expected(i, "größe/" * 20) for i in NUMBERS]


def scan(data):
    return shard_index.scan(lambda a, b: data[a:b], len(data))


def usable(data):
    """Scans and reads all: what is fine, and what is bad. Any other error is a failure."""
    blocks, note = scan(data)
    assert (np.diff(blocks.astype(np.int64)) >= 0).all()
    fine, bad = [], 0
    for a, b in itertools.pairwise(blocks.tolist()):
        try:
            fine.append(unpack(data[a * 512 : b * 512], a * 512))
        except (BadRecord, tar.TarDamage):
            bad += 1
    return fine, bad, note


class TestFuzz:
    @given(st.integers(0, len(WHOLE)))
    @settings(max_examples=150, deadline=None)
    def test_truncated_anywhere_the_whole_samples_remain(self, length):
        fine, bad, note = usable(WHOLE[:length])
        begun = sum(start + 3 * 512 <= length for start in STARTS)  # samples whose first name can be read
        whole = len(NUMBERS) if length > CONTENT else max(0, begun - 1)
        assert (len(fine), bad) == (whole, 0) and (note["fault"] is None) == (length > CONTENT)
        for (key, found), original in zip(fine, LONG, strict=False):
            assert key == original["key"] and found["jpg"] == original["image"] and len(found) == 3

    @given(st.binary(max_size=3000))
    @example(b"\0" * 511)
    @settings(max_examples=150, deadline=None)
    def test_random_bytes(self, data):
        fine, bad, note = usable(data)
        assert (fine, bad) == ([], 0) and note["fault"]

    @given(
        st.sampled_from([b for m in MEMBERS for b in (m.start, m.data - 512)]), st.integers(0, 511), st.integers(1, 255)
    )
    @settings(max_examples=150, deadline=None)
    def test_one_changed_byte_of_a_header(self, header, place, change):
        """The checksum tells, wherever it is but in the filling of the checksum's own field."""
        broken = bytearray(WHOLE)
        broken[header + place] ^= change
        fine, _, note = usable(bytes(broken))
        if not 154 <= place < 156:
            assert note["fault"].startswith(("no tar header", "not a tar archive")) and note["fault_offset"] == header
            assert len(fine) == max(0, sum(start + 2 * 512 < header for start in STARTS) - 1)  # as above

    @given(st.data())
    @settings(max_examples=300, deadline=None)
    def test_flipped_headers(self, data):
        """Noise in one header, with its checksum made right again, so that the other fields are looked at."""
        broken = bytearray(WHOLE)
        at = data.draw(st.sampled_from([b for s in STARTS for b in range(s, s + 512 * 6, 512)]))
        place = at + data.draw(st.sampled_from([0, 100, 124, 130, 156, 257, 345]))
        noise = data.draw(st.binary(min_size=1, max_size=30))
        broken[place : place + len(noise)] = noise
        if data.draw(st.booleans()):
            block = broken[at : at + 512]
            block[148:156] = b" " * 8
            broken[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        fine, _, _ = usable(bytes(broken))
        for key, found in fine:
            assert not tar.escapes(key) and sum(map(len, found.values())) <= len(WHOLE)

    @given(st.lists(st.tuples(st.text(min_size=1, max_size=300), st.binary(max_size=1500)), max_size=8))
    @settings(max_examples=150, deadline=None)
    def test_names_as_tarfile_reads_them(self, members):
        members = [(name, content) for name, content in members if "\0" not in name and not name.endswith("/")]
        members = [(n, c) for n, c in members if n.encode("utf-8", "replace").decode() == n]
        data = archive(members, tarfile.PAX_FORMAT)
        ours = [(m.name, m.data, m.size) for m in tar.members(lambda a, b: data[a:b], 0, len(data))]
        with tarfile.open(fileobj=io.BytesIO(data)) as file:
            theirs = [(m.name, m.offset_data, m.size) for m in file]
        assert [(n.rstrip("/"), d, s) for n, d, s in ours] == theirs


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """The same pairs as ArrayRecord and as seven tars."""
    folder, source = tmp_path_factory.mktemp("emoji"), Emoji("test")
    pairs = [{k: source[i][k] for k in ("image", "text")} for i in range(len(source))]
    write_arrayrecord(pairs, folder / "records", per_shard=150)
    for n in range(7):
        part = range(n * len(pairs) // 7, (n + 1) * len(pairs) // 7)
        members = [
            (f"{i:06d}.{e}", c)
            for i in part
            for e, c in (("png", pairs[i]["image"]), ("txt", pairs[i]["text"].encode()))
        ]
        (folder / f"{n:05d}.tar").write_bytes(archive(members))
    return folder


TRANSFORMS = [
    {"kind": "decode_image"},
    {"kind": "random_resized_crop", "size": 32},
    {"kind": "tokenize", "length": 8},
]


def loader(part, **options):
    def bytes_of(text, length):
        return np.frombuffer(text.encode()[:length].ljust(length, b"\0"), np.uint8).astype(np.int32)

    transforms = [build("transform", t, tokenizer=bytes_of) for t in TRANSFORMS]
    return Loader(build("source", part), transforms, **{"batch": 48, "seed": 3, **options})


def take(loader, count):
    return [loader.host_batch(step) for step in range(count)]


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys() == {"image", "text", "index"}
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_the_same_batches_whatever_the_format(emoji):
    records = take(loader({"kind": "arrayrecord", "paths": str(emoji / "records")}), 10)
    assert len({i for b in records for i in b["index"].tolist()}) == 400  # more than an epoch
    assert_same(take(loader({"kind": "webdataset", "shards": str(emoji)}), 10), records)


def test_seven_shards_on_eight_hosts(emoji):
    part = {"kind": "webdataset", "shards": str(emoji)}
    hosts = [take(loader(part, process_index=p, process_count=8), 3) for p in range(8)]
    joined = [{k: np.concatenate([host[step][k] for host in hosts]) for k in hosts[0][0]} for step in range(3)]
    assert_same(joined, take(loader(part), 3))


class TestRemote:
    @pytest.fixture
    def served(self, emoji, tmp_path, monkeypatch):
        pytest.importorskip("aiohttp")
        monkeypatch.setenv("BIGCL_DATA", str(tmp_path))
        with http_server(emoji) as (url, faults):
            yield {"kind": "webdataset", "shards": f"{url}/{{00000..00006}}.tar", "patience": QUICK}, faults

    def test_the_same_batches_through_a_failing_server(self, emoji, served):
        """Some of nearly every kind of failure, and yet nothing is lost and nothing comes twice."""
        part, faults = served
        draw = np.random.default_rng(0)
        remote = loader(part)
        faults.plan.extend(draw.choice(["", "", "500", "503", "reset", "short"], 200).tolist())
        batches = take(remote, 3)
        assert not faults.plan and len(faults.requests) > 200
        assert_same(batches, take(loader({"kind": "webdataset", "shards": str(emoji)}), 3))

    def test_only_spans_are_asked_for(self, emoji, served):
        part, faults = served
        source = build("source", part)
        assert {r.split()[0] for r in faults.requests if " bytes=" not in r} == {"HEAD"}
        faults.requests.clear()
        again = build("source", part)
        assert [r.split()[0] for r in faults.requests] == ["HEAD"] * 7  # the indexes are in the cache
        faults.requests.clear()
        assert again[123] == source[123] and len(faults.requests) == 2

    def test_another_content_at_the_same_place(self, served, tmp_path_factory):
        folder = tmp_path_factory.mktemp("changing")
        with http_server(folder) as (url, _):
            for n in (3, 8, 3):  # the same size, too, as tars are padded
                (folder / "0.tar").write_bytes(shard(range(n, n + 2)))
                assert read_all(WebDataset(f"{url}/0.tar")) == [expected(i) for i in (n, n + 1)]

    def test_a_shard_deleted_while_running(self, served, tmp_path_factory):
        folder = tmp_path_factory.mktemp("going")
        (folder / "0.tar").write_bytes(shard([0]))
        with http_server(folder) as (url, _):
            source = WebDataset(f"{url}/0.tar")
            (folder / "0.tar").unlink()
            with pytest.raises(BadRecord, match="gone since it was indexed"):
                source[0]

    def test_when_patience_ends_the_error_names_the_place_and_is_no_bad_record(self, served):
        part, faults = served
        source = build("source", {**part, "patience": {**QUICK, "attempts": 2}})
        faults.plan.extend(["500"] * 9)
        shard, start, stop = source.locate(200)
        with pytest.raises(storage.StorageError, match=f"{shard}, bytes {start} to {stop}: given up"):
            source[200]

    def test_worker_processes(self, served):
        part, _ = served
        batches = loader(part, workers=2).batches()
        try:
            assert_same([next(batches) for _ in range(4)], take(loader(part), 4))
        finally:
            batches.close()
