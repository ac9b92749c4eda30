"""Data sets that the datasets library itself wrote, and what is wrong with others."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from bigcl.data.sources import BadRecord, metadata
from bigcl.data.sources.huggingface import HuggingFace

pa = pytest.importorskip("pyarrow")


def write(folder, table, files=1, whole=False):
    """As `save_to_disk` does it; whole: the file format of Arrow, not the stream format."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i in range(files):
        rows = len(table) // files
        names.append({"filename": f"data-{i:05d}-of-{files:05d}.arrow"})
        path, new = str(folder / names[-1]["filename"]), pa.ipc.new_file if whole else pa.ipc.new_stream
        with pa.OSFile(path, "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table.slice(i * rows, rows), max_chunksize=3)
    (folder / "state.json").write_text(json.dumps({"_data_files": names}))
    return str(folder)


TABLE = pa.table({"text": [f"t{i}" for i in range(12)], "vector": [[i, 0.5] for i in range(12)], "n": list(range(12))})


def test_what_the_library_wrote(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((4, 5, 3), i, np.uint8)) for i in range(7)]
    content = {"image": pictures, "label": [i % 2 for i in range(7)], "box": [[[0, i], [1, 2]] for i in range(7)]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "box": datasets.Array2D((2, 2), "int32"),
        }
    )
    data = datasets.Dataset.from_dict(content, features)
    data.shuffle(seed=0).save_to_disk(tmp_path / "one", num_shards=2)
    source = HuggingFace(str(tmp_path / "one"))
    reference = data.shuffle(seed=0)
    assert len(source) == 7
    for i in range(7):
        picture = np.asarray(Image.open(io.BytesIO(source[i]["image"])))
        assert (
            np.array_equal(picture, np.asarray(reference[i]["image"])) and source[i]["label"] == reference[i]["label"]
        )
        assert np.array_equal(np.stack(source[i]["box"]), reference[i]["box"])
    datasets.DatasetDict({"train": data, "test": data.select([4])}).save_to_disk(tmp_path / "two")
    assert len(HuggingFace(str(tmp_path / "two"), "train")) == 7
    assert HuggingFace(str(tmp_path / "two"), "test", columns=["label"])[0] == {"label": 0}


@pytest.mark.parametrize("whole", [False, True])
def test_rows_and_columns(tmp_path, whole):
    source = HuggingFace(write(tmp_path / "a", TABLE, 3, whole), columns=["text", "vector"])
    assert [source[i]["text"] for i in (0, 5, 11)] == ["t0", "t5", "t11"] and source[4]["vector"].tolist() == [4, 0.5]
    assert set(source[0]) == {"text", "vector"}
    found = metadata(HuggingFace(str(tmp_path / "a")), ["n", "text"], 2, 9)
    assert list(found["n"]) == list(range(2, 9)) and found["text"] == [f"t{i}" for i in range(2, 9)]


def test_bad_rows(tmp_path):
    images = pa.array([{"bytes": b"x", "path": None}, {"bytes": None, "path": "../y"}])
    source = HuggingFace(write(tmp_path / "a", pa.table({"image": images})))
    assert source[0] == {"image": b"x"}
    with pytest.raises(BadRecord, match=r"row 1: '\.\./y' lies outside"):
        source[1]


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_to_disk"):
        HuggingFace(str(tmp_path / "nothing"))
    path = write(tmp_path / "d" / "train", TABLE)
    with pytest.raises(ValueError, match="has no splits; leave out 'train'"):
        HuggingFace(path, "train")
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split in (None, "tset", "../d/train"):
        with pytest.raises(ValueError, match="choose a split: train, test"):
            HuggingFace(str(tmp_path / "d"), split)
    assert len(HuggingFace(str(tmp_path / "d"), "train")) == 12
    with pytest.raises(ValueError, match="no column 'txt', but text, vector, n"):
        HuggingFace(path, columns=["txt"])
    file = tmp_path / "d" / "train" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="not a whole Arrow file"):
        HuggingFace(path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="missing, but listed in"):
        HuggingFace(path)
    (tmp_path / "d" / "train" / "state.json").write_text("[]")
    with pytest.raises(ValueError, match="not as `save_to_disk` writes it"):
        HuggingFace(path)
