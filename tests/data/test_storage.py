"""Every byte arrives once and in its place, whatever the network does; when patience is at its end, the error says
where."""

import concurrent.futures
import dataclasses
import logging
import multiprocessing
import os
import pickle
import random
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigcl.data import storage
from bigcl.data.loader import Loader
from bigcl.data.storage import Patience, StorageError
from bigcl.registry import build
from tests.data import test_formats
from tests.data.servers import http_server, s3_server

DATA = random.Random(0).randbytes(300_000)
QUICK = Patience(request=5.0, total=30.0, attempts=6, delay=0.01, longest_delay=0.03)
SPANS = [(i, i + 1 + 911 * i % 5000) for i in range(0, 290_000, 3777)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    (path / "data.bin").write_bytes(DATA)
    for name in ("a.tar", "b.tar", "c.txt.gz"):
        (path / name).write_bytes(b"x")
    return path


@pytest.fixture
def http(folder):
    pytest.importorskip("aiohttp")
    with http_server(folder) as (url, faults):
        yield f"{url}/data.bin", faults


@pytest.fixture(scope="module")
def s3_endpoint(tmp_path_factory):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    with s3_server() as (endpoint, faults), pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="dir/data.bin", Body=DATA)
        for name in ("a.tar", "b.tar", "deep/c.tar"):
            client.put_object(Bucket="bucket", Key=f"shards/{name}", Body=b"x")
        yield client, faults


@pytest.fixture
def s3(s3_endpoint):
    client, faults = s3_endpoint
    faults.plan.clear()
    faults.requests.clear()
    return client, faults


class Pixels:
    """The bytes of a picture as an array."""

    def __call__(self, example, rng):
        return {"image": np.frombuffer(example["image"], np.uint8)}


class TestLocal:
    def test_spans(self, folder):
        path = str(folder / "data.bin")
        assert all(storage.read(path, a, b) == DATA[a:b] for a, b in [*SPANS, (0, 0), (0, len(DATA))])
        assert storage.stat(path) == (len(DATA), str(os.stat(path).st_mtime_ns))

    def test_what_is_not_there(self, folder):
        with pytest.raises(EOFError, match=f"ends at byte {len(DATA)}"):
            storage.read(str(folder / "data.bin"), 299_000, 300_001)
        with pytest.raises(FileNotFoundError) as caught:
            storage.read(str(folder / "none"), 5, 9)
        assert f"{socket.gethostname()}: {folder}/none, bytes 5 to 9" in caught.value.__notes__
        with pytest.raises(IsADirectoryError, match="a folder"):
            storage.stat(str(folder))

    def test_errors_that_may_pass(self):
        answers = iter([OSError(5, "Input/output error"), TimeoutError(), ConnectionResetError(), "bytes"])

        def once(seconds):
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert storage.insist(once, "x", QUICK) == "bytes"


class TestHTTP:
    def test_spans_over_one_connection(self, http):
        url, faults = http
        assert storage.stat(url).size == len(DATA)
        assert all(storage.read(url, a, b) == DATA[a:b] for a, b in SPANS)
        assert len(faults.requests) == len(SPANS) + 1 and len(faults.connections) == 1

    @pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "short", "few"])
    def test_faults_are_outlived(self, http, fault, caplog):
        url, faults = http
        faults.plan.extend([fault, fault, "", fault])
        with caplog.at_level(logging.WARNING):
            assert storage.read(url, 1000, 70_000, QUICK) == DATA[1000:70_000]
            assert storage.read(url, 70_000, 70_001, QUICK) == DATA[70_000:70_001]
        assert len(faults.requests) == 2 + 3
        assert "attempt 2 of 6" in caplog.text and f"{url}, bytes 1000 to 70000" in caplog.text

    @pytest.mark.parametrize("fault", ["slow", "drip"])
    def test_a_slow_body_is_given_up_and_asked_for_again(self, http, fault):
        url, faults = http
        faults.plan.append(fault)
        assert storage.read(url, 0, 90_000, dataclasses.replace(QUICK, request=0.5)) == DATA[:90_000]
        assert len(faults.requests) == 2

    @pytest.mark.parametrize(
        "fault, reason", [("500", "500"), ("reset", "ClientPayloadError"), ("slow", "Timeout"), ("drip", "Timeout")]
    )
    def test_the_error_names_the_place(self, http, fault, reason):
        url, faults = http
        faults.plan.extend([fault] * 9)
        with pytest.raises(StorageError, match=reason) as caught:
            storage.read(url, 5, 900, dataclasses.replace(QUICK, request=0.2, attempts=3))
        assert str(caught.value).startswith(f"{socket.gethostname()}: {url}, bytes 5 to 900: given up")
        assert len(faults.requests) == 3

    def test_the_total_deadline_ends_before_the_attempts(self, http):
        url, faults = http
        faults.plan.extend(["slow"] * 99)
        with pytest.raises(StorageError, match="given up"):
            storage.read(url, 5, 900, dataclasses.replace(QUICK, request=0.2, total=0.5, attempts=99))
        assert 1 <= len(faults.requests) <= 4

    @pytest.mark.parametrize("fault", ["400", "403", "410"])
    def test_what_will_not_change_is_not_asked_for_twice(self, http, fault):
        url, faults = http
        faults.plan.append(fault)
        with pytest.raises(StorageError, match=fault) as caught:
            storage.read(url, 5, 900, QUICK)
        assert len(faults.requests) == 1 and f"{url}, bytes 5 to 900" in str(caught.value)

    def test_what_is_not_there(self, http):
        url, faults = http
        with pytest.raises(FileNotFoundError) as caught:
            storage.read(url + "x", 5, 900, QUICK)
        assert len(faults.requests) == 1 and f"{url}x, bytes 5 to 900" in caught.value.__notes__[0]

    def test_the_size_is_asked_for_again(self, http):
        url, faults = http
        faults.plan.extend(["500"] * 4)  # each time by HEAD and by GET
        assert storage.stat(url, QUICK).size == len(DATA)
        with pytest.raises(FileNotFoundError):
            storage.stat(url + "x", QUICK)
        assert len(faults.requests) == 5 + 2

    def test_beyond_the_end(self, http):
        url, _ = http
        with pytest.raises(EOFError, match="ends before byte 300000"):
            storage.read(url, 300_000, 300_010, QUICK)

    def test_a_server_without_ranges(self, folder):
        pytest.importorskip("aiohttp")
        command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                port = server.stdout.readline().split("port ")[1].split()[0]
                with pytest.raises(StorageError, match="serves no byte ranges"):
                    storage.read(f"http://127.0.0.1:{port}/data.bin", 5, 10, QUICK)
            finally:
                server.terminate()

    def test_threads_and_faults_at_random(self, http):
        url, faults = http
        draw = random.Random(1)
        faults.plan.extend(draw.choice(["", "", "500", "reset", "short"]) for _ in range(400))
        patience = dataclasses.replace(QUICK, attempts=30)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda span: storage.read(url, *span, patience), SPANS))
        assert read == [DATA[a:b] for a, b in SPANS]

    @pytest.mark.parametrize("method", ["spawn", "fork"])
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
    def test_processes_open_their_own_connections(self, http, method):
        url, faults = http
        assert storage.read(url, 5, 9) == DATA[5:9]
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(storage.read, [url] * 6, range(6), range(10, 16))) == [
                DATA[i : i + 10] for i in range(6)
            ]
        assert 2 <= len(faults.connections) <= 3


class TestS3:
    def test_spans(self, s3):
        assert storage.stat("s3://bucket/dir/data.bin").size == len(DATA)
        for a, b in SPANS[:10]:
            assert storage.read("s3://bucket/dir/data.bin", a, b, QUICK) == DATA[a:b]

    @pytest.mark.parametrize("fault", ["500", "503", "reset", "short", "slow", "drip"])
    def test_faults_are_outlived(self, s3, fault):
        _, faults = s3
        faults.plan.extend([fault, fault])
        patience = dataclasses.replace(QUICK, request=1.0)
        assert storage.read("s3://bucket/dir/data.bin", 1000, 90_000, patience) == DATA[1000:90_000]
        assert not faults.plan and len(faults.requests) == 3

    @pytest.mark.parametrize(
        "fault, reason",
        [
            ("503", "Reduce your request rate"),
            ("reset", "Payload|Connection|Response"),
            ("short", "Payload|Incomplete|Response|bytes came"),
            ("slow", "Timeout"),
            ("drip", "Timeout"),
        ],
    )
    def test_the_error_names_the_place(self, s3, fault, reason):
        _, faults = s3
        faults.plan.extend([fault] * 9)
        with pytest.raises(StorageError, match=reason) as caught:
            storage.read("s3://bucket/dir/data.bin", 5, 900, dataclasses.replace(QUICK, request=0.5, attempts=3))
        place = f"{socket.gethostname()}: s3://bucket/dir/data.bin, bytes 5 to 900: given up"
        assert str(caught.value).startswith(place) and len(faults.requests) == 3

    def test_threads_and_faults_at_random(self, s3):
        _, faults = s3
        draw = random.Random(1)
        faults.plan.extend(draw.choice(["", "", "500", "reset", "short"]) for _ in range(60))
        patience, spans = dataclasses.replace(QUICK, attempts=30), SPANS[::3]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda span: storage.read("s3://bucket/dir/data.bin", *span, patience), spans))
        assert found == [DATA[a:b] for a, b in spans] and len(faults.requests) > len(spans)

    def test_an_epoch_of_shards_in_spite_of_faults(self, s3, tmp_path, monkeypatch):
        """Each sample once, with its own bytes; and when the server fails for good, the shard and the bytes."""
        client, faults = s3
        monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
        rows = [{"code": f"{i:04}", "image": bytes([i]) * 2000, "text": f"ä {i}"} for i in range(50)]
        (tmp_path / "data").mkdir()
        test_formats.webdataset(rows, tmp_path / "data")
        for file in (tmp_path / "data").glob("*.tar"):
            client.put_object(Bucket="bucket", Key=f"epoch/{file.name}", Body=file.read_bytes())
        patience = dataclasses.asdict(dataclasses.replace(QUICK, request=1.0, attempts=30))
        source = build("source", {"kind": "webdataset", "shards": "s3://bucket/epoch/", "patience": patience})
        faults.plan.extend(["reset", "", "500", "slow", "", "", "short", "reset", ""] * 4)
        loader, seen = Loader(source, [Pixels()], batch=10, seed=2), []
        for step in range(5):
            batch = loader.host_batch(step)
            seen += batch["index"].tolist()
            assert (batch["image"] == batch["index"][:, None]).all() and batch["image"].shape == (10, 2000)
        assert sorted(seen) == list(range(50)) and not faults.plan
        faults.plan.extend(["reset"] * 40)
        shard, offset = source.place(30)
        with pytest.raises(StorageError, match=rf"{socket.gethostname()}: {shard}, bytes {offset} to \d+: given up"):
            source[30]

    def test_what_is_not_there(self, s3):
        with pytest.raises(FileNotFoundError):
            storage.read("s3://bucket/dir/none", 0, 5, QUICK)
        with pytest.raises(FileNotFoundError):
            storage.stat("s3://no-bucket/none", QUICK)
        with pytest.raises(EOFError):
            storage.read("s3://bucket/dir/data.bin", len(DATA), len(DATA) + 5, QUICK)
        with pytest.raises(IsADirectoryError, match="write s3://bucket/shards/"):
            storage.stat("s3://bucket/shards", QUICK)

    def test_another_content_has_another_tag(self, s3):
        client, _ = s3
        tags = set()
        for body in (b"one", b"two", b"one"):
            client.put_object(Bucket="bucket", Key="changing/a.tar", Body=body)
            assert storage.find_files("s3://bucket/changing/", [".tar"]) == ["s3://bucket/changing/a.tar"]
            tags.add(storage.stat("s3://bucket/changing/a.tar", QUICK))
        assert len(tags) == 2

    def test_tables(self, s3, tmp_path, monkeypatch):
        client, faults = s3
        monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
        (tmp_path / "data").mkdir()
        rows = [{"code": str(i), "image": bytes([i]) * 3000, "text": f"ä {i}"} for i in range(40)]
        for kind in ("jsonl", "parquet"):
            local = getattr(test_formats, kind)(rows, tmp_path / "data")
            for file in (f for f in (tmp_path / "data").rglob("*") if f.is_file()):
                key = f"{kind}/{file.relative_to(tmp_path / 'data')}"
                client.put_object(Bucket="bucket", Key=key, Body=file.read_bytes())
            source = build("source", {**local, "paths": f"s3://bucket/{kind}/"})
            faults.plan.extend(["503", "", "reset", "", "short"])
            assert [source[i] for i in range(40)] == [build("source", local)[i] for i in range(40)]
            assert not faults.plan

    def test_folders_and_globs(self, s3):
        assert storage.find_files("s3://bucket/shards/", [".tar"]) == [f"s3://bucket/shards/{n}.tar" for n in "ab"]
        assert storage.find_files("s3://bucket/shards/deep/*.tar", ()) == ["s3://bucket/shards/deep/c.tar"]


def test_google_cloud_storage(monkeypatch):
    """Over its JSON protocol, against an emulator; what S3 is tested for is not specific to S3."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    fsspec = pytest.importorskip("fsspec")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which speaks gRPC, as no emulator does
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "project": "p"})
    pytest.importorskip("gcsfs")
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    try:
        url = f"http://127.0.0.1:{port}/upload/storage/v1/b/bucket/o?uploadType=media&name=dir/a.tar"
        urllib.request.urlopen(urllib.request.Request(url, DATA, method="POST")).close()
        assert storage.find_files("gs://bucket/dir/", [".tar"], QUICK) == ["gs://bucket/dir/a.tar"]
        stat = storage.stat("gs://bucket/dir/a.tar", QUICK)
        assert stat.size == len(DATA) and stat.tag
        assert all(storage.read("gs://bucket/dir/a.tar", a, b, QUICK) == DATA[a:b] for a, b in SPANS[:10])
        with pytest.raises(FileNotFoundError):
            storage.read("gs://bucket/dir/none", 5, 9, QUICK)
        with pytest.raises(FileNotFoundError):
            storage.stat("gs://bucket/dir/none", QUICK)
    finally:
        server.stop()


class TestFindFiles:
    @given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 8))
    def test_ranges_in_braces(self, first, count, width):
        last = first + count
        pattern = f"http://host/x-{{{first:0{width}d}..{last:0{width}d}}}{{.tar,.json}}"
        expected = [f"http://host/x-{n:0{width}d}{ext}" for n in range(first, last + 1) for ext in (".tar", ".json")]
        assert storage.find_files(pattern, ()) == expected

    @pytest.mark.parametrize("braces", ["{5..3}", "{0..99999999999}"])
    def test_ranges_that_cannot_be_meant(self, braces):
        with pytest.raises(ValueError, match="should go up"):
            storage.find_files(f"a{braces}", ())

    def test_folders_globs_and_lists(self, folder, tmp_path, monkeypatch):
        a, b = str(folder / "a.tar"), str(folder / "b.tar")
        assert storage.find_files(str(folder), (".tar",)) == [a, b]
        assert storage.find_files([b, f"{folder}/a.*"], ()) == [b, a]
        (tmp_path / "list.txt").write_text(f"# shards\n\n{b}\nx-{{1..2}}.tar\ns3://bucket/c.tar\n")
        expected = [b, str(tmp_path / "x-1.tar"), str(tmp_path / "x-2.tar"), "s3://bucket/c.tar"]
        assert storage.find_files(str(tmp_path / "list.txt"), ()) == expected
        monkeypatch.setenv("HOME", str(folder))
        assert storage.find_files("~/[a]*", ()) == [a]

    def test_over_http(self, http):
        url = http[0].removesuffix("data.bin")
        assert storage.find_files(url, (".tar",)) == [f"{url}a.tar", f"{url}b.tar"]
        assert storage.find_files(f"{url}*.bin", ()) == [f"{url}data.bin"]

    def test_nothing_twice_and_not_nothing(self, folder, tmp_path):
        with pytest.raises(ValueError, match=r"a\.tar: named twice"):
            storage.find_files([str(folder), f"{folder}/a.tar"], (".tar",))
        with pytest.raises(FileNotFoundError, match=r"no \.tar files here"):
            storage.find_files(str(tmp_path), (".tar",))
        with pytest.raises(FileNotFoundError, match="no files"):
            storage.find_files([], ())

    def test_commands_are_not_run(self):
        with pytest.raises(ValueError, match="commands are not run"):
            storage.find_files("pipe:touch /tmp/x", ())


def test_what_is_missing_is_named():
    program = """
import sys
sys.modules["aiohttp"] = None
from bigcl.data import storage
storage.read("http://127.0.0.1:1/x", 0, 1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 'pip install "bigcl[remote]"' in done.stderr


def test_file_systems_without_deadlines_are_refused():
    pytest.importorskip("fsspec")
    with pytest.raises(ValueError, match="without a deadline"):
        storage.read("memory://x", 0, 1)


def test_patience_can_be_pickled():
    assert pickle.loads(pickle.dumps(QUICK)) == QUICK
