"""What is written to ArrayRecord files is read back, in order, also from threads and after pickling."""

import concurrent.futures
import pickle

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl.data.loader import Loader, bad_records
from bigcl.data.sources import BadRecord
from bigcl.data.sources.arrayrecord import ArrayRecord, pack, write_arrayrecord

EXAMPLES = [
    {
        "image": bytes([i, 255]),
        "text": f"größe {i}",
        "n": i,
        "x": i / 3,
        "none": None,
        "names": {"en": "a"},
        "list": [1, "b"],
    }
    for i in range(25)
]


def read(source):
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize("per_shard, shards", [(100, 1), (10, 3), (5, 5), (1, 25)])
def test_round_trip(tmp_path, per_shard, shards):
    assert write_arrayrecord(iter(EXAMPLES), tmp_path, per_shard) == 25
    assert len(list(tmp_path.iterdir())) == shards
    assert read(ArrayRecord(str(tmp_path))) == EXAMPLES


def test_arrays(tmp_path):
    arrays = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "n": np.int64(5),
        "nested": {"flags": np.array([True])},
    }
    write_arrayrecord([arrays], tmp_path)
    found = ArrayRecord(str(tmp_path))[0]
    assert found["x"].dtype == np.float32 and np.array_equal(found["x"], arrays["x"])
    assert found["n"] == 5 and found["n"].dtype == np.int64 and found["nested"]["flags"].tolist() == [True]
    with pytest.raises(ValueError, match="cannot hold object"):
        write_arrayrecord([{"x": object()}], tmp_path / "b")


def test_paths_may_be_files_globs_and_folders(tmp_path):
    write_arrayrecord(EXAMPLES[:5], tmp_path / "a", per_shard=2)
    write_arrayrecord(EXAMPLES[5:9], tmp_path / "b", per_shard=2)
    assert read(ArrayRecord([str(tmp_path / "a"), str(tmp_path / "b" / "00000*")])) == EXAMPLES[:7]
    assert read(ArrayRecord(f"{tmp_path}/*/00001.array_record")) == EXAMPLES[2:4] + EXAMPLES[7:9]


def test_threads_and_pickles_read_the_same(tmp_path):
    write_arrayrecord(EXAMPLES, tmp_path, per_shard=4)
    source = ArrayRecord(str(tmp_path))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, [*range(25)] * 8)) == EXAMPLES * 8
    assert read(pickle.loads(pickle.dumps(source))) == EXAMPLES


@pytest.fixture
def damaged(tmp_path):
    """A file of records of 3 kB, and its bytes."""
    write_arrayrecord([{"x": np.random.default_rng(i).bytes(3000)} for i in range(40)], tmp_path, 20)
    return tmp_path / "00000.array_record"


def bad(source):
    found = {}
    for index in range(len(source)):
        try:
            source[index]
        except BadRecord as error:
            found[index] = error
    return found


def test_a_damaged_record_is_a_bad_one(damaged):
    content = bytearray(damaged.read_bytes())
    content[10_000:10_050] = bytes(50)
    damaged.write_bytes(content)
    source = ArrayRecord(str(damaged.parent))
    ((index, error),) = bad(source).items()
    assert index == 3 and "Corrupted" in error.reason and error.shard == str(damaged) == source.place(3)[0]
    assert (error.source, error.key) == (source.name, "3") and len(source) == 40
    batch = Loader(source, [lambda e, _: {"n": len(e["x"])}], batch=40, seed=0).host_batch(0)
    (record,) = bad_records(batch)
    assert record["index"] == 3 and (batch["n"] == 3000).all() and 3 not in batch["index"]


def test_a_file_deleted_or_cut(damaged):
    source, content = ArrayRecord(str(damaged.parent)), damaged.read_bytes()
    damaged.unlink()
    found = bad(source)
    assert list(found) == list(range(20)) and "No such file" in found[0].reason
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"00000\.array_record: not a whole ArrayRecord file"):
        ArrayRecord(str(damaged.parent))
    damaged.write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000\.array_record: not a whole ArrayRecord file"):
        ArrayRecord(str(damaged.parent))
    for index in (40, -1):
        with pytest.raises(IndexError, match=f"index {index} of 40 examples"):
            source[index]


@given(st.lists(st.one_of(st.binary(max_size=60), st.just(pack({"x": 1}))), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("format", ["msgpack", "tf_example"])
def test_records_of_any_bytes_are_read_or_named_as_bad(tmp_path_factory, format, records):
    folder = tmp_path_factory.mktemp("fuzz")
    writer = ArrayRecordWriter(str(folder / "0.array_record"), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    source = ArrayRecord(str(folder), format)
    found = bad(source)
    assert len(source) == len(records) and all(
        isinstance(source[i], dict) for i in range(len(source)) if i not in found
    )
    if format == "msgpack":
        assert not any(records[i] == pack({"x": 1}) for i in found)


def test_arrays_that_cannot_be_are_bad(tmp_path):
    writer = ArrayRecordWriter(str(tmp_path / "0.array_record"), "group_size:1")
    good = pack({"x": np.arange(3)})
    for record in (good, good.replace(b"<i8", b"<q9"), good.replace(b"<i8", b"|O8"), good[:-1]):
        writer.write(record)
    writer.close()
    assert list(bad(ArrayRecord(str(tmp_path)))) == [1, 2, 3]


def test_nothing_there_is_an_error_that_names_the_pattern(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/\*\.array_record: no \*\.array_record\* files here"):
        ArrayRecord("nowhere/*.array_record")
    with pytest.raises(ValueError, match="gs://bucket/x: ArrayRecord is read from local or mounted disks"):
        ArrayRecord("gs://bucket/x")
    with pytest.raises(FileNotFoundError, match="write_arrayrecord"):
        ArrayRecord(str(tmp_path))


def test_tf_examples(tmp_path):
    proto = pytest.importorskip("tensorflow_datasets.proto.tf_example_generated_pb2")
    module = pytest.importorskip("array_record.python.array_record_module")
    example = proto.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(b"\x00\xff")
    feature["captions"].bytes_list.value.extend([b"a", b"b"])
    feature["label"].int64_list.value.append(-7)
    feature["box"].float_list.value.extend([0.5, 1.5])
    feature["nothing"].SetInParent()
    writer = module.ArrayRecordWriter(str(tmp_path / "data-train.array_record-00000-of-00001"), "group_size:1")
    writer.write(example.SerializeToString())
    writer.close()
    read_back = ArrayRecord(str(tmp_path), format="tf_example")[0]
    assert read_back["image"] == b"\x00\xff" and read_back["captions"] == [b"a", b"b"] and read_back["nothing"] == []
    assert read_back["label"] == -7 and read_back["label"].dtype == np.int64 and read_back["label"].shape == ()
    assert read_back["box"].dtype == np.float32 and read_back["box"].tolist() == [0.5, 1.5]
