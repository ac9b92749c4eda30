"""The adapter reads what TFDS prepared, and says what to prepare; TensorFlow is not needed."""

import io
import pickle
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from bigcl.data.loader import Loader
from bigcl.data.sources import BadRecord
from bigcl.data.sources.arrayrecord import ArrayRecord
from bigcl.data.sources.tfds import TFDS
from bigcl.data.transforms import Keep
from bigcl.data.transforms.image import DecodeImage

tfds = pytest.importorskip("tensorflow_datasets")


class BigclTiny(tfds.core.GeneratorBasedBuilder):
    """Five grey pictures with two captions each."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # there is no package with checksums beside this file

    def _info(self):
        captions = tfds.features.Sequence({"text": tfds.features.Text()})
        image = tfds.features.Image(shape=(None, None, 3))
        features = tfds.features.FeaturesDict({"image": image, "label": np.int64, "captions": captions})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            png = io.BytesIO()
            Image.fromarray(np.full((4, 6, 3), i, np.uint8)).save(png, "PNG")
            png.seek(0)
            yield i, {"image": png, "label": i, "captions": [{"text": f"caption {i}"}, {"text": "picture"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    BigclTiny(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return str(folder)


def test_examples(folder):
    source = TFDS("bigcl_tiny", data_dir=folder)
    examples = [source[i] for i in range(len(source))]
    assert sorted(int(e["label"]) for e in examples) == list(range(5))
    for example in examples:
        assert example["image"].shape == (4, 6, 3) and (example["image"] == example["label"]).all()
        assert example["captions"]["text"] == [f"caption {example['label']}".encode(), b"picture"]
    assert pickle.loads(pickle.dumps(source))[2]["label"] == examples[2]["label"]


def test_a_broken_record_is_a_bad_one(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.rglob("*.array_record-*")
    whole = TFDS("bigcl_tiny", data_dir=folder)
    raw = [whole.records.data_source[i] for i in range(5)]
    damaged = [raw[0], raw[1].replace(b"IDAT", b"IDOT"), b"\xff\xff", raw[3][: len(raw[3]) // 2], raw[4]]
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for record in damaged:
        writer.write(record)
    writer.close()
    source, found = TFDS("bigcl_tiny", data_dir=str(tmp_path)), {}
    for index in range(5):
        try:
            assert (source[index]["image"] == whole[index]["image"]).all()
        except BadRecord as error:
            found[index] = error
    assert list(found) == [1, 2, 3] and all(e.shard == str(file) and e.source == source.name for e in found.values())
    with pytest.raises(IndexError, match="index 5 of 5"):
        source[5]


def test_part_of_a_split(folder):
    assert len(TFDS("bigcl_tiny", split="train[:40%]", data_dir=folder)) == 2


def test_through_the_loader(folder):
    transforms = [Keep({"image": "image", "label": "label", "texts": "captions/text"}), DecodeImage()]
    batch = Loader(TFDS("bigcl_tiny", data_dir=folder), transforms, batch=5, seed=0).host_batch(0)
    assert set(batch) == {"image", "label", "index"}
    assert np.array_equal(batch["image"][:, 0, 0, 0], batch["label"])


def test_its_files_are_tf_examples(folder):
    source = ArrayRecord(f"{folder}/bigcl_tiny/1.0.0", format="tf_example")
    assert sorted(int(source[i]["label"]) for i in range(len(source))) == list(range(5))


@pytest.mark.parametrize("name", ["bigcl_tiny", "no_such_data_set"])
def test_absent_data_is_an_error_with_the_command(name, tmp_path):
    command = f"tfds build {name} --file_format=array_record --data_dir={tmp_path}"
    with pytest.raises(FileNotFoundError, match=command):
        TFDS(name, data_dir=str(tmp_path))
