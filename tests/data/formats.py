"""Writers of the formats that sources read: by the real libraries, or by the format's own description."""

import csv
import json
import struct

from bigcl.data.crc32c import crc32c


def write_jsonl(rows, path):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_csv(rows, path):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_pictures(rows, folder, key="image"):
    """Rows with the name of a file in place of the picture; the files are beside."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    named = []
    for i, row in enumerate(rows):
        (folder / "pictures" / f"{i}.png").write_bytes(row[key])
        named.append({**{k: v for k, v in row.items() if k != key}, "path": f"pictures/{i}.png"})
    return named


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(data):
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def tf_example(row):
    """A serialized `tf.train.Example` of bytes and texts."""
    from tensorflow_datasets.proto import tf_example_generated_pb2 as proto

    example = proto.Example()
    for key, value in row.items():
        content = value.encode() if isinstance(value, str) else value
        example.features.feature[key].bytes_list.value.append(content)
    return example.SerializeToString()


def write_tfrecord(rows, path):
    path.write_bytes(b"".join(frame(tf_example(row)) for row in rows))
