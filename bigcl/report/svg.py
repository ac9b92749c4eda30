"""SVG by small functions: elements, ticks, thumbnails."""

import base64
import io
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup, escape

THUMBNAIL = 72  # pixels of the longer side, as stored in the page


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. Everything but Markup is escaped; in attribute names `_` is `-`, and dropped at the end."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{escape(number(value))}"' for key, value in given.items())
    return Markup(f"<{name}{opening}>{''.join(escape(child) for child in children)}</{name}>")


def number(value: object) -> object:
    """Coordinates to a tenth of a unit: a page of them stays small."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float | np.floating) else value


def path(x: Float[np.ndarray, "t"], y: Float[np.ndarray, "t"]) -> str:
    """The `d` of a line through points."""
    return "M" + "L".join(f"{number(float(a))} {number(float(b))}" for a, b in zip(x, y, strict=True))


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers within [low, high], low < high."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= count + 0.01)
    return [float(i * step) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def data_uri(picture: UInt8[np.ndarray, "h w 3"], side: int = THUMBNAIL) -> str:
    """A picture of at most `side` pixels as the smaller of a palette PNG, best for drawings, and a JPEG, best for
    photographs."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=88, subsampling=0, optimize=True)
    kind, data = min(("png", png.getvalue()), ("jpeg", jpeg.getvalue()), key=lambda pair: len(pair[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Thumbnails:
    """The pictures of a page: each is stored once, however often it is shown."""

    def __init__(self, pictures: Iterable[UInt8[np.ndarray, "h w 3"]], captions: Iterable[str]):
        self.pictures, self.captions = list(pictures), list(captions)
        self.used: set[int] = set()

    def show(self, index: int, x: float, y: float, size: float, **attributes: object) -> Markup:
        """Picture `index` inside an SVG, in a square of `size`."""
        self.used.add(index)
        return tag("use", href=f"#picture-{index}", x=x, y=y, width=size, height=size, **attributes)

    def picture(self, index: int) -> Markup:
        """Picture `index` as an SVG of its own."""
        side = THUMBNAIL
        title = tag("title", self.captions[index])
        view = f"0 0 {side} {side}"
        return tag("svg", title, self.show(index, 0, 0, side), class_="picture", role="img", viewBox=view)

    def definitions(self) -> Markup:
        """What `show` refers to: once per page, after everything that shows pictures."""
        side = THUMBNAIL
        symbols = []
        for i in sorted(self.used):
            image = tag("image", href=data_uri(self.pictures[i]), width=side, height=side)
            symbols.append(tag("symbol", image, id=f"picture-{i}", viewBox=f"0 0 {side} {side}"))
        return tag("svg", *symbols, width=0, height=0, class_="definitions", aria_hidden="true")
