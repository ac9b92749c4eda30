"""JPEG decoders and resizers side by side: milliseconds of one core, and how far the result is from Pillow's.

    python -m benchmarks.decode

One JSON line for each decoder and each resizer, over the pictures of `benchmarks/input.py`: 640 x 480, to 224 x 224.
`db` is the peak signal-to-noise ratio of the result, bicubic by Pillow where the resizer is not what is measured,
against a full decode and Pillow's bicubic. Needs `pip install "bigcl[fast-image,test]"`; opencv-python-headless and
PyTurboJPEG (with the library libturbojpeg) take part where they are installed.
"""

import argparse
import fractions
import functools
import io
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.input import SIZE, installed, photographs

Function = Callable[[Any], np.ndarray]
PACKAGES = ("pillow", "simplejpeg", "opencv-python-headless", "PyTurboJPEG", "cykooz-resizer", "numpy")


def pillow(eighths: int = 8) -> Function:
    """Decodes with Pillow, at a scale of so many eighths."""

    def decode(jpeg: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(jpeg))
        image.draft("RGB", (image.width * eighths // 8, image.height * eighths // 8))
        return np.asarray(image.convert("RGB"))

    return decode


def simplejpeg(eighths: int = 8) -> Function:
    """Decodes with libjpeg-turbo by simplejpeg."""
    import simplejpeg

    least = {"min_height": 480 * eighths // 8, "min_width": 640 * eighths // 8}
    return functools.partial(simplejpeg.decode_jpeg, **least)


def turbojpeg(eighths: int = 8) -> Function:
    """Decodes with libjpeg-turbo by PyTurboJPEG."""
    import turbojpeg

    decoder = turbojpeg.TurboJPEG()
    scale = fractions.Fraction(eighths, 8).as_integer_ratio()
    return lambda jpeg: decoder.decode(jpeg, turbojpeg.TJPF_RGB, scaling_factor=scale)


def opencv(eighths: int = 8) -> Function:
    """Decodes with OpenCV."""
    import cv2

    cv2.setNumThreads(1)
    flag = {8: cv2.IMREAD_COLOR, 4: cv2.IMREAD_REDUCED_COLOR_2}[eighths]
    return lambda jpeg: cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag), cv2.COLOR_BGR2RGB)


def resize_pillow() -> Function:
    """Pillow's bicubic filter, antialiased."""
    return lambda pixels: np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def resize_opencv() -> Function:
    """OpenCV's area filter; its others alias."""
    import cv2

    cv2.setNumThreads(1)
    return lambda pixels: cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def resize_cykooz() -> Function:
    """The resizer of `bigcl[fast-image]`, as `resize` and `random_resized_crop` call it."""
    from bigcl.data.transforms import image

    if not image.FAST_RESIZE:
        raise ImportError("No module named 'cykooz_resizer'")
    return lambda pixels: image.fast_resize(pixels, (SIZE, SIZE), "bicubic", None)


DECODERS: dict[str, Callable[[int], Function]] = {
    "Pillow": pillow,
    "OpenCV": opencv,
    "simplejpeg": simplejpeg,
    "TurboJPEG": turbojpeg,
}
RESIZERS: dict[str, Callable[[], Function]] = {
    "Pillow, bicubic": resize_pillow,
    "OpenCV, area": resize_opencv,
    "cykooz-resizer, bicubic": resize_cykooz,
}
SCALES = {"Pillow": (8, 4), "OpenCV": (8, 4), "simplejpeg": (8, 5, 4), "TurboJPEG": (8, 5, 4)}


def milliseconds(function: Function, inputs: Sequence[Any], rounds: int) -> tuple[float, float]:
    """Processor time for each input: the best of the rounds and their median."""
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        for value in inputs:
            function(value)
        spent.append(1e3 * (time.process_time() - began) / len(inputs))
    return min(spent), statistics.median(spent)


def decibels(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float | None:
    """Peak signal-to-noise ratio over all pictures; None for equal ones."""
    error = np.mean([np.square(f.astype(np.float64) - e).mean() for f, e in zip(found, expected, strict=True)])
    return round(10 * math.log10(255**2 / error), 1) if error else None


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="two pictures")
    args = parser.parse_args()
    jpegs, reference = list(photographs(2 if args.tiny else args.pictures)), resize_pillow()
    whole = [pillow()(jpeg) for jpeg in jpegs]
    sizes = {8: whole, 4: [pillow(4)(jpeg) for jpeg in jpegs]}
    expected = [reference(pixels) for pixels in whole]
    facts = {"python": platform.python_version(), **installed(PACKAGES)}

    def report(line: dict[str, Any], make: Callable[[], Function], inputs: Sequence[Any], after: Function) -> None:
        try:
            function = make()
        except (ImportError, RuntimeError) as error:
            print(json.dumps({"benchmark": "decode", **line, "skipped": str(error)}), flush=True)
            return
        best, median = milliseconds(function, inputs, args.rounds)
        db = decibels([after(function(value)) for value in inputs], expected)
        found = {"best_ms": round(best, 3), "median_ms": round(median, 3), "db": db}
        print(json.dumps({"benchmark": "decode", **line, **found, "rounds": args.rounds, **facts}), flush=True)

    for name, make in DECODERS.items():
        for eighths in SCALES[name]:
            report({"decode": name, "scale": f"{eighths}/8"}, functools.partial(make, eighths), jpegs, reference)
    for name, resizer in RESIZERS.items():
        for eighths, pictures in sizes.items():
            report({"resize": name, "from": f"{80 * eighths} x {60 * eighths}"}, resizer, pictures, lambda x: x)


if __name__ == "__main__":
    main()
