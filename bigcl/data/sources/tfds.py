"""Data sets of TensorFlow Datasets, read without TensorFlow."""

import importlib

from bigcl.data.sources import Example
from bigcl.data.sources.arrayrecord import bad_record, read_record, shard_of


class TFDS:
    """A split of a data set that TFDS has prepared in the ArrayRecord format. Nothing is downloaded here.

    name: as TFDS spells it, "coco_captions" or "my_data/config:1.0.0".
    split: "train", or a part of one: "train[:90%]".
    data_dir: where TFDS keeps its data; None for its own default (`$TFDS_DATA_DIR`, or ~/tensorflow_datasets).
    """

    def __init__(self, name: str, split: str = "train", data_dir: str | None = None):
        self.name = f"tfds {name} {split}"
        try:
            tfds = importlib.import_module("tensorflow_datasets")
        except ImportError as error:
            raise ImportError(
                f"source {self.name}: needs the package tensorflow-datasets: pip install tensorflow-datasets"
            ) from error
        try:
            self.records = tfds.data_source(name, split=split, data_dir=data_dir, download=False)
        except (
            AssertionError,
            FileNotFoundError,
            ImportError,
            KeyError,  # a data set that TFDS knows, and that was never built, has no splits
            NotImplementedError,
            tfds.core.DatasetNotFoundError,
        ) as error:
            where = f" in {data_dir}" if data_dir else ""
            option = f" --data_dir={data_dir}" if data_dir else ""
            raise FileNotFoundError(
                f"source {self.name}: not readable{where} ({str(error).splitlines()[0]}); "
                f"prepare it with: tfds build {name} --file_format=array_record{option}"
            ) from error

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = read_record(self.records.data_source, index, self.name)
        try:
            return dict(self.records.dataset_info.features.deserialize_example_np(record))
        except Exception as error:  # whatever the decoders of all features raise for bytes that are not theirs
            reason = f"{type(error).__name__}: {error}"
            raise bad_record(self.records.data_source, index, self.name, reason) from error

    def place(self, index: int) -> tuple[str, None]:
        """The file of an example."""
        return shard_of(self.records.data_source, index), None

    def class_names(self, key: str) -> list[str] | None:
        """What the numbers at a key ("a/b" for nested ones) stand for, if TFDS knows."""
        feature = self.records.dataset_info.features
        for part in key.split("/"):
            feature = feature.get(part)
            if feature is None:
                return None
        return getattr(getattr(feature, "feature", feature), "names", None)
