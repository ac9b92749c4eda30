"""TFRecord files: checksums by the published vectors, files of another writer, broken and truncated ones."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.record_writer import RecordWriter

from bigcl.data.crc32c import crc32c, halves, plain
from bigcl.data.sources import BadRecord
from bigcl.data.sources.tfrecord import TFRecord
from tests.data import formats


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next three: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_checksums(data, expected):
    assert crc32c(data) == expected


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=4, max_size=3000))
def test_both_ways_agree(data):
    assert halves(data) == plain(data)


ROWS = [{"text": f"größe {i}", "image": bytes([i]) * 1000} for i in range(9)]


def test_files_of_another_writer(tmp_path):
    writer = RecordWriter(str(tmp_path / "a.tfrecord"))
    for row in ROWS:
        writer.write(formats.tf_example(row))
    writer.close()
    source = TFRecord(str(tmp_path))
    assert [source[i]["text"].decode() for i in range(9)] == [row["text"] for row in ROWS]
    assert [source[i]["image"] for i in range(9)] == [row["image"] for row in ROWS]


def test_values(tmp_path):
    from tensorflow_datasets.proto import tf_example_generated_pb2 as proto

    example = proto.Example()
    feature = example.features.feature
    feature["captions"].bytes_list.value.extend([b"a", b"b"])
    feature["label"].int64_list.value.append(-7)
    feature["box"].float_list.value.extend([0.5, 1.5])
    (tmp_path / "a.tfrecord").write_bytes(formats.frame(example.SerializeToString()))
    found = TFRecord(str(tmp_path))[0]
    assert found["captions"] == [b"a", b"b"] and found["label"] == -7 and found["box"].dtype == np.float32


def test_broken_records(tmp_path):
    path = tmp_path / "a.tfrecord"
    formats.write_tfrecord(ROWS, path)
    whole, size = path.read_bytes(), len(formats.frame(formats.tf_example(ROWS[0])))
    first = len(formats.frame(formats.tf_example(ROWS[0])))

    path.write_bytes(whole[: first + 500] + b"?" + whole[first + 501 :])
    source = TFRecord(str(path))
    assert len(source) == 9 and source[2]["image"] == ROWS[2]["image"]
    with pytest.raises(BadRecord, match="checksum") as caught:
        source[1]
    assert caught.value.offset == first == size and caught.value.shard == str(path)

    path.write_bytes(whole[:-700])
    source = TFRecord(str(path))
    assert len(source) == 9 and source[7]["image"] == ROWS[7]["image"]
    with pytest.raises(BadRecord, match="the file ends before the record does"):
        source[8]

    path.write_bytes(whole[: 2 * first] + b"????" + whole[2 * first + 4 :])
    source = TFRecord(str(path))
    assert len(source) == 3 and source[1]["image"] == ROWS[1]["image"]
    with pytest.raises(BadRecord, match="the length of the record is broken"):
        source[2]

    path.write_bytes(formats.frame(b"\xff\xff"))
    with pytest.raises(BadRecord, match=r"no tf\.train\.Example"):
        TFRecord(str(path))[0]


def test_compressed_files_are_refused(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(gzip.compress(formats.frame(b"abc")))
    with pytest.raises(ValueError, match=r"a\.tfrecord: compressed"):
        TFRecord(str(tmp_path))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 200))
def test_any_bytes_are_read_or_named_as_bad(tmp_path_factory, junk, cut):
    path = tmp_path_factory.getbasetemp() / "fuzz.tfrecord"
    path.write_bytes(formats.frame(b"")[:cut] + junk)
    try:
        source = TFRecord(str(path))
    except ValueError as error:
        assert "compressed" in str(error)
        return
    for i in range(len(source)):
        try:
            assert source[i] == {}
        except BadRecord as error:
            assert error.shard == str(path)
