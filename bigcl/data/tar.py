"""The headers of tar archives, for reading single members at random: ustar, GNU long names, PAX.

Nothing is ever unpacked. What a hostile archive can do is raise `TarDamage`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
_ZEROS = bytes(BLOCK)
_LONGEST_EXTENSION = 2**20  # of a name, in bytes; real ones are short, and a broken length must not fill the memory
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"5": "folder",
    b"6": "pipe",
}
Read = Callable[[int, int], bytes]
"""`read(start, stop)` gives those bytes of the archive, fewer only where it ends."""


class TarDamage(ValueError):
    """Bytes that are no tar archive, from `offset` on."""

    def __init__(self, offset: int, reason: str):
        super().__init__(offset, reason)
        self.offset, self.reason = offset, reason

    def __str__(self) -> str:
        return f"at byte {self.offset}: {self.reason}"


class Member(NamedTuple):
    """A member of an archive.

    kind: "file", or what else it is: "folder", "hard link", "sparse file", ...
    start: offset of its first header, that of a long name included.
    data, size: where the content lies, in bytes.
    """

    name: str
    kind: str
    start: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """Offset of the block after the content."""
        return self.data + padded(self.size)


def members(read: Read, start: int, stop: int) -> Iterator[Member]:
    """The members whose headers lie in [start, stop), in order. Blocks of zeros between them are passed over, so that
    archives that were joined end to end are read to the end.

    The content of the last one may reach beyond `stop`. Raises TarDamage where a header should be and is not.
    """
    at = first = start
    special: dict[str, str] = {}  # what the headers of extensions say about the member that follows
    while at < stop:
        block = read(at, min(at + BLOCK, stop))
        if not block.strip(b"\0") and not special:
            at = first = at + BLOCK
            continue
        name, kind, size = parse_header(block, at)
        data = at + BLOCK
        if kind in (b"L", b"K", b"x", b"X", b"g"):
            if size > _LONGEST_EXTENSION or data + size > stop:
                raise TarDamage(at, f"an extended header of {size} bytes")
            content = read(data, data + size)
            if kind == b"L":
                special["path"] = text(content)
            elif kind != b"K":
                special |= pax_records(content, at, kind == b"g")
            at = data + padded(size)
            continue
        if kind == b"S":
            raise TarDamage(at, f"{name!r} is a sparse file, which is not supported")
        if "size" in special:
            size = parse_decimal(special["size"], at)
        word = _KINDS.get(kind, f"member of type {kind!r}")
        if word != "file" and kind in _KINDS:
            size = 0  # a link may state the size of its target; no content follows
        if any(key.startswith("GNU.sparse.") for key in special):
            word = "sparse file"
        name = special.get("GNU.sparse.name", special.get("path", name))
        member = Member(name, word, first, data, size)
        yield member
        at = first = member.end
        special = {}
    if special:
        raise TarDamage(first, "an extended header without a member")


def parse_header(block: bytes, at: int) -> tuple[str, bytes, int]:
    """Name, type and size of a header block."""
    if len(block) < BLOCK:
        raise no_header(at, "the file ends inside it")
    if parse_number(block[148:156], at) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise no_header(at, "wrong checksum")
    name = text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{text(block[345:500])}/{name}"
    kind = block[156:157]
    if kind in (b"0", b"\0") and name.endswith("/"):  # how archives older than ustar mark a folder
        kind = b"5"
    return name, kind, parse_number(block[124:136], at)


def no_header(at: int, why: str) -> TarDamage:
    """The error for a block that should be a header."""
    return TarDamage(at, f"{'no tar header' if at else 'not a tar archive'}: {why}")


def compression(head: bytes) -> str | None:
    """What an archive that begins with these bytes is compressed with."""
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)


def parse_number(field: bytes, at: int) -> int:
    """A number field: octal digits, or base 256 if the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise no_header(at, "not a number")
    return int(digits or b"0", 8)


def pax_records(content: bytes, at: int, is_global: bool) -> dict[str, str]:
    """The records `length key=value` of a PAX header."""
    records = {}
    while content.strip(b"\0"):
        length = parse_decimal(text(content.partition(b" ")[0][:20]), at)
        key, equals, value = content[:length].partition(b" ")[2].partition(b"=")
        if not equals or length > len(content) or not value.endswith(b"\n"):
            raise TarDamage(at, "a broken PAX header")
        records[text(key)] = str(value[:-1], "utf-8", "backslashreplace")
        content = content[length:]
    if is_global and not {"path", "size"}.isdisjoint(records):
        raise TarDamage(at, "a global PAX header that names one member")
    return {} if is_global else records


def parse_decimal(digits: str, at: int) -> int:
    """A decimal number of a PAX header."""
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise TarDamage(at, "a broken PAX header")
    return int(digits)


def text(field: bytes) -> str:
    """A string field, up to the first NUL; bytes that are no UTF-8 are written as \\xff."""
    return str(field.partition(b"\0")[0], "utf-8", "backslashreplace")


def padded(size: int) -> int:
    """`size` rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def split_name(name: str) -> tuple[str, str]:
    """`"a/b.seg.PNG"` -> `("a/b", "seg.png")`: the key of a sample and the extension of one of its members.

    What has no extension or begins with a dot belongs to no sample: `("", "")`.
    """
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, extension = file.partition(".")
    return (folder + slash + stem, extension.lower()) if stem and extension else ("", "")


def escapes(name: str) -> bool:
    """Whether a member's name points out of the folder that it would be unpacked into."""
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name
