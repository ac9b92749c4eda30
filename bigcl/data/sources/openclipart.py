"""The Open Clip Art Library as Debian packs it: 6,885 drawings with their titles, `apt install openclipart-png`."""

import contextlib
import hashlib
import html
import io
import math
import pathlib
import re
from typing import Literal

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from bigcl.data.sources import BadRecord, Example
from bigcl.data.transforms.image import guarded

FOLDER = "/usr/share/openclipart/png"
_HELD_OUT = 10  # one in so many
_SIZE = slice(16, 24)  # where a PNG has its width and height


class OpenClipart:
    """Drawings in PNG, in the order of their names.

    An example: `{"key": "animals/mammals/dogs/bored_dog_01", "image": PNG bytes, "text": "Bored dog", "tags":
    ["animals", "mammals", "dogs"], "author": "Jose Hevia"}`. `text` is the title that the file holds, often that of the
    set it belongs to, or the words of its name where it holds none; `tags` are the folders it lies in; `author` is None
    where it is not known.

    Links to drawings in other folders, and drawings of more pixels than Pillow thinks safe, are left out.

    split: "test" is the drawings the sha256 of whose key, as a number, divides by 10; "train" the rest, "all" both.
    path: the package's folder, or one like it.

    Raises FileNotFoundError if there are no drawings at `path`.
    """

    def __init__(self, split: Literal["train", "test", "all"] = "train", path: str = FOLDER):
        self.folder, self.name = pathlib.Path(path), f"openclipart {path}/{split}"
        files = [f for f in self.folder.rglob("*.png") if not f.is_symlink() and pixels(f) <= limit()]
        if not files:
            raise FileNotFoundError(f"source.path: no drawings in {path}; apt install openclipart-png puts them there")
        keys = sorted(f.relative_to(self.folder).with_suffix("").as_posix() for f in files)
        self.keys = [key for key in keys if split == "all" or held_out(key) == (split == "test")]
        self.identity = self.extent = hashlib.sha256("\n".join(self.keys).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        key, (file, _) = self.keys[index], self.place(index)
        try:
            data = pathlib.Path(file).read_bytes()
            texts = guarded(lambda: PngImageFile(io.BytesIO(data))).info
        except (FileNotFoundError, BadRecord) as error:
            reason = error.reason if isinstance(error, BadRecord) else "the file is gone"
            raise BadRecord(self.name, key, file, 0, reason) from error
        *tags, name = key.split("/")
        title, author = (plain_text(str(texts.get(field, ""))) for field in ("Title", "Author"))
        return {"key": key, "image": data, "text": title or words(name), "tags": tags, "author": author or None}

    def place(self, index: int) -> tuple[str, int]:
        """The file of an example."""
        return f"{self.folder / self.keys[index]}.png", 0


def pixels(file: pathlib.Path) -> int:
    """How many the header of a PNG claims, whether or not the rest can be read."""
    with file.open("rb") as stream:
        size = stream.read(_SIZE.stop)[_SIZE]
    return int.from_bytes(size[:4], "big") * int.from_bytes(size[4:], "big")


def limit() -> float:
    """The pixels of the largest picture that `decode_image` takes."""
    return Image.MAX_IMAGE_PIXELS or math.inf


def held_out(key: str) -> bool:
    """Whether a drawing is one of the test split, by nothing but its key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big") % _HELD_OUT == 0


def plain_text(text: str) -> str:
    """The text of a chunk: UTF-8 where the format says Latin-1, with entities of HTML."""
    with contextlib.suppress(UnicodeError):  # then it is what the format says
        text = text.encode("latin-1").decode()
    return " ".join(html.unescape(text).split())


def words(name: str) -> str:
    """ "Computer-Keyboardlayout-de" -> "Computer Keyboardlayout de"; without the number at the end."""
    return " ".join(re.sub(r"_\d+[a-z]?$", "", name).replace("_", " ").replace("-", " ").split()) or name
