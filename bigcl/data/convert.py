"""Writes any source as ArrayRecord files or tars.

    python -m bigcl.data convert --config configs/emoji.py --to arrayrecord --out data/emoji --shard 0/8 --size 256

Shard k holds examples [k * per_shard, (k + 1) * per_shard) of the source, so that jobs with --shard 0/8 ... 7/8 share
the work, in one folder, without knowing of each other. A shard gets its name when it is whole; the same command again
makes those that are missing. Examples that cannot be read are left out and listed in `<shard>.bad.jsonl`.

In a tar, an example has the name of its index. The picture `image` is the member .jpg, .png, ..., the text `text`
.txt; other bytes and arrays are named after their key; all the rest is in .json.
"""

import argparse
import io
import json
import pathlib
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from bigcl.data.cache import fsync, locked
from bigcl.data.pipeline import open_source, parse_args, section, source_part
from bigcl.data.sources import BadRecord, Example, Source, place, reads, source_identity, source_name
from bigcl.data.sources.arrayrecord import SUFFIX, pack
from bigcl.data.transforms.image import FORMATS
from bigcl.files import replacing, write_json_lines

PLAN = "convert.json"
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif"}
_JPEG_QUALITY = 95


def main(argv: list[str]) -> None:
    """Parses, converts, prints."""
    parser = argparse.ArgumentParser("python -m bigcl.data convert", description=__doc__.split("\n\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--source", type=source_part, help='a part, as in {"kind": "parquet", "paths": "laion"}')
    where.add_argument("--config", help="a config file; its data.source is converted")
    parser.add_argument("--to", choices=sorted(WRITERS), required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a folder")
    parser.add_argument("--per-shard", type=int, default=10_000, help="examples in a shard (default 10000)")
    parser.add_argument("--shard", type=fraction, default=(0, 1), metavar="I/N", help="make the I-th of N parts only")
    parser.add_argument("--size", type=int, help="shorter side to which larger pictures are reduced, in pixels")
    parser.add_argument("--image", default="image", help="key of the picture (default image)")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01, help="of a shard, above which it is an error")
    args = parse_args(parser, argv)
    part = args.source or section(section(args.config, "data"), "source", "data")
    options = {"to": args.to, "per_shard": args.per_shard, "size": args.size, "image": args.image}
    written, bad, there = convert(
        open_source(part), args.out, part=args.shard, max_bad_fraction=args.max_bad_fraction, **options
    )
    print(f"{args.out}: {written:,} examples written, {bad:,} bad ones left out, {there:,} shards were there already")


def fraction(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8)."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"expected I/N, 0/8 to 7/8, got {text!r}")
    return int(part), int(parts)


def convert(
    source: Source,
    folder: pathlib.Path,
    to: str = "arrayrecord",
    *,
    per_shard: int = 10_000,
    part: tuple[int, int] = (0, 1),
    size: int | None = None,
    image: str = "image",
    max_bad_fraction: float = 0.01,
) -> tuple[int, int, int]:
    """Writes the shards k with k % part[1] == part[0] that are not there; returns how many examples were written, how
    many left out as bad, and how many shards were there.

    Raises ValueError if the folder was written in another way, or if too many examples of a shard are bad.
    """
    check_plan(folder, {"source": source_identity(source), "to": to, "per_shard": per_shard, "size": size})
    if per_shard < 1:
        raise ValueError(f"per_shard: at least 1, not {per_shard}")
    suffix, write = WRITERS[to]
    written = skipped = there = 0
    numbers = range(part[0], -(-len(source) // per_shard), part[1])
    total = sum(min(per_shard, len(source) - number * per_shard) for number in numbers)
    with tqdm(total=total, desc=f"converting {source_name(source)}", unit=" examples", disable=None) as bar:
        for number in numbers:
            indices = range(number * per_shard, min(len(source), (number + 1) * per_shard))
            target = folder / f"{number:05d}{suffix}"
            lock = folder / f".{target.name}.lock"
            with locked(lock):  # the same job may have been started twice
                if target.exists():
                    there += 1
                    bar.update(len(indices))
                else:
                    bad: list[BadRecord] = []
                    with replacing(target) as partial:
                        write(partial, read(source, indices, size, image, bad, bar))
                        report(bad, len(indices), max_bad_fraction, target)
                        fsync(partial)
                    fsync(folder)
                    written, skipped = written + len(indices) - len(bad), skipped + len(bad)
                lock.unlink(missing_ok=True)  # whoever locks it next finds the shard
    return written, skipped, there


def check_plan(folder: pathlib.Path, plan: Mapping[str, Any]) -> None:
    """Notes in the folder what its shards are made of; shards of different makes must not mix."""
    folder.mkdir(parents=True, exist_ok=True)
    path, plan = folder / PLAN, json.loads(json.dumps(plan))
    with locked(folder / f".{PLAN}.lock"):
        if not path.exists():
            with replacing(path) as partial:
                partial.write_text(json.dumps(plan, indent=1), encoding="utf-8")
    if (old := json.loads(path.read_text(encoding="utf-8"))) != plan:
        differing = next(key for key in plan if plan[key] != old.get(key))
        raise ValueError(
            f"{folder} was written with {differing} {old.get(differing)!r}, not {plan[differing]!r}; "
            "choose another --out"
        )


def read(
    source: Source, indices: range, size: int | None, image: str, bad: list[BadRecord], bar: "tqdm[Any]"
) -> Iterator[tuple[int, Example]]:
    """The examples with their indices, pictures reduced; those that cannot be read go to `bad`."""
    for index, example in zip(indices, reads(source, indices), strict=True):
        bar.update()
        if isinstance(example, BadRecord):
            bad.append(example)
            continue
        try:
            if isinstance(example.get(image), np.ndarray) and example[image].dtype == np.uint8:
                example[image] = encode(Image.fromarray(example[image].squeeze()), "PNG")
            if size is not None:
                if not isinstance(example.get(image), bytes):
                    raise ValueError(f"no picture here; the example has {', '.join(example)}")
                example[image] = reduce(example[image], size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all of them
            bad.append(BadRecord(source_name(source), str(index), *place(source, index), f"{image!r}: {error}"))
        else:
            yield index, example


def reduce(data: bytes, size: int) -> bytes:
    """A picture whose shorter side is at most `size`, antialiased (bicubic). What is small enough stays as it is, to
    the byte.

    JPEG stays JPEG, PNG stays PNG; others become PNG if they have an alpha channel or a palette, else JPEG.
    """
    file = Image.open(io.BytesIO(data), formats=FORMATS)
    if min(file.size) <= size:
        file.load()  # to see that it can be read
        return data
    kind = str(file.format)
    if kind == "JPEG":
        file.draft(file.mode, (2 * size, 2 * size))  # decodes fewer pixels, but twice as many as are needed
    picture = ImageOps.exif_transpose(file)
    if picture.mode == "CMYK":
        picture.info.pop("icc_profile", None)  # it would be wrong for the RGB that follows
    if kind not in ("JPEG", "PNG"):
        kind = "PNG" if picture.mode in ("P", "PA", "LA", "RGBA") else "JPEG"
    if picture.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        picture = picture.convert("RGBA" if picture.mode in ("P", "PA") or "transparency" in picture.info else "RGB")
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    return encode(picture.resize((width, height), Image.Resampling.BICUBIC), kind)


def encode(picture: Image.Image, kind: str) -> bytes:
    """A picture as bytes, with its colour profile."""
    out, profile = io.BytesIO(), picture.info.get("icc_profile")
    options = {"quality": _JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    picture.save(out, kind, icc_profile=profile, **options)
    return out.getvalue()


def report(bad: list[BadRecord], size: int, max_bad_fraction: float, target: pathlib.Path) -> None:
    """Lists the examples that a shard of `size` lacks. Raises ValueError if they are too many."""
    path = target.with_suffix(".bad.jsonl")
    path.unlink(missing_ok=True)
    if bad:
        write_json_lines(path, map(vars, bad))
    if len(bad) > max_bad_fraction * size:
        raise ValueError(f"{len(bad)} of {size} examples are bad, see {path}; the first one: {bad[0]}")


def write_arrayrecord_shard(path: pathlib.Path, examples: Iterator[tuple[int, Example]]) -> None:
    """One ArrayRecord file."""
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for _, example in examples:
        writer.write(pack(example))
    writer.close()


def write_tar_shard(path: pathlib.Path, examples: Iterator[tuple[int, Example]]) -> None:
    """One tar, the same to the byte for the same examples."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for index, example in examples:
            for extension, content in members(example):
                member = tarfile.TarInfo(f"{index:09d}.{extension}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))


def members(example: Example) -> Iterator[tuple[str, bytes]]:
    """Extension and content of each member of an example. Raises ValueError for what has no form in a tar."""
    others: dict[str, Any] = {}
    for key, value in example.items():
        if key == "text" and isinstance(value, str | bytes):
            yield "txt", value.encode() if isinstance(value, str) else value
        elif isinstance(value, bytes):
            kind = extension(value)
            yield (kind if key == "image" and kind != "bin" else f"{key}.{kind}"), value
        elif isinstance(value, np.ndarray):
            out = io.BytesIO()
            np.save(out, value, allow_pickle=False)
            yield f"{key}.npy", out.getvalue()
        else:
            others[key] = value
    if others:
        yield "json", json.dumps(others, ensure_ascii=False, default=plain_value).encode()


def plain_value(value: Any) -> Any:
    """What JSON can hold in place of a value."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    raise ValueError(f"a tar cannot hold {type(value).__name__} {value!r}; drop it or turn it into text")


def extension(data: bytes) -> str:
    """By the first bytes; "bin" for what is no picture."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "bin")


WRITERS: dict[str, tuple[str, Callable[[pathlib.Path, Iterator[tuple[int, Example]]], None]]] = {
    "arrayrecord": (SUFFIX, write_arrayrecord_shard),
    "webdataset": (".tar", write_tar_shard),
}
