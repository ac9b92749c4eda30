"""Pictures a second and core: JPEG decode, random-resized-crop to 224 and tokenizing, against PyTorch and TensorFlow.

    JAX_PLATFORMS=cpu python benchmarks/input.py

One JSON line for each pipeline. Each runs in its own process on one core, its workers too, and the rate is pictures by
the processor time of all of them, so that other work on the machine counts little. Every pipeline draws crops of 90 to
100% of the area, as open_clip does. Needs `pip install "bigcl[fast-image,interop-test]"` and opencv-python-headless,
for tf.data tensorflow-cpu.
"""

import argparse
import functools
import importlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

BATCH = 64
SIZE = 224
SCALE = (0.9, 1.0)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CAPTION = "a photograph of {} by the river, taken in the early morning of day {}"
Batches = Iterator[Any]


def photographs(count: int) -> Iterator[bytes]:
    """JPEGs of 640 x 480 (quality 90): parts of two photographs, each at its own place and scale."""
    from sklearn.datasets import load_sample_images

    originals, rng = load_sample_images().images, np.random.default_rng(0)
    for index in range(count):
        original = Image.fromarray(originals[index % 2])
        height = rng.uniform(320, original.height)
        left, top = rng.uniform(0, original.width - height * 4 / 3), rng.uniform(0, original.height - height)
        part = original.resize((640, 480), box=(left, top, left + height * 4 / 3, top + height))
        file = io.BytesIO()
        part.save(file, "JPEG", quality=90)
        yield file.getvalue()


def write_tar(path: pathlib.Path, count: int) -> None:
    """Photographs with captions."""
    with tarfile.open(path, "w") as tar:
        for index, jpeg in enumerate(photographs(count)):
            caption = CAPTION.format(("a temple", "a flower")[index % 2], index).encode()
            for name, content in ((f"{index:06d}.jpg", jpeg), (f"{index:06d}.txt", caption)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def bigcl(path: str, fast: bool = True, whole: bool = False) -> Batches:
    """This project's loader with one worker process. fast: with the fast libraries; whole: every JPEG in full."""
    from bigcl.data.loader import Loader
    from bigcl.data.sources.webdataset import WebDataset
    from bigcl.data.tokenizers import CLIP
    from bigcl.data.transforms import image
    from bigcl.data.transforms.text import Tokenize

    assert image.FAST_DECODE and image.FAST_RESIZE
    transforms = [WithPillow()] * (not fast) + [image.DecodeImage()] * whole
    transforms += [image.RandomResizedCrop(SIZE, SCALE), Tokenize(77, CLIP())]
    return iter(Loader(WebDataset(path), transforms, batch=BATCH, seed=0, workers=1).batches())


class WithPillow:
    """Takes the fast libraries away, in whichever process it runs."""

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        from bigcl.data.transforms import image

        image.FAST_DECODE = image.FAST_RESIZE = False
        return example


def pytorch(path: str, decode: str = "open_clip") -> Batches:
    """open_clip's pipeline: WebDataset in one worker of PyTorch's DataLoader, its training transform, its tokenizer.

    decode: "draft" lets Pillow decode at a lower scale; "opencv" decodes with OpenCV and resizes by its area filter,
        which does not alias; "simplejpeg" decodes at a lower scale with libjpeg-turbo and resizes uint8 with PyTorch's
        antialiased kernel, which no published pipeline does. Both then normalise.
    """
    importlib.import_module("tests.interop.conftest")  # a torchvision for CUDA beside a torch for the CPU
    import open_clip
    import torch
    import webdataset as wds
    from open_clip.transform import AugmentationCfg, image_transform

    torch.set_num_threads(1)
    transform = image_transform(SIZE, is_train=True, mean=CLIP_MEAN, std=CLIP_STD, aug_cfg=AugmentationCfg(scale=SCALE))
    tokenizer = open_clip.SimpleTokenizer()
    read = {"open_clip": lambda data: transform(Image.open(io.BytesIO(data)))}
    read["draft"] = lambda data: transform(drafted(data))
    read["opencv"] = functools.partial(crop_with_opencv, torch)
    read["simplejpeg"] = functools.partial(crop_with_torch, torch)
    pipeline = wds.DataPipeline(
        wds.ResampledShards(path),
        wds.tarfile_to_samples(),
        wds.rename(image="jpg", text="txt"),
        wds.map_dict(image=read[decode], text=lambda text: tokenizer(text.decode())[0]),
        wds.to_tuple("image", "text"),
        wds.batched(BATCH, partial=False),
    )
    return iter(wds.WebLoader(pipeline, batch_size=None, num_workers=1))


def drafted(data: bytes) -> Image.Image:
    """A JPEG at the lowest scale that still has SIZE pixels on its shorter side."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (SIZE, SIZE))
    return image


def crop_with_torch(torch: Any, data: bytes) -> Any:
    """Decodes with libjpeg-turbo, crops and resizes uint8, normalises."""
    import simplejpeg

    part = random_part(torch, simplejpeg.decode_jpeg(data, min_height=SIZE, min_width=SIZE))
    channels = torch.from_numpy(part).permute(2, 0, 1)[None]
    return normalised(torch, torch.nn.functional.interpolate(channels, (SIZE, SIZE), mode="bicubic", antialias=True)[0])


def crop_with_opencv(torch: Any, data: bytes) -> Any:
    """Decodes with OpenCV, crops and resizes uint8, normalises."""
    import cv2

    cv2.setNumThreads(1)
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    resized = cv2.resize(random_part(torch, decoded), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return normalised(torch, torch.from_numpy(resized).permute(2, 0, 1))


def random_part(torch: Any, pixels: np.ndarray) -> np.ndarray:
    """The part of a picture [h, w, 3] that torchvision's transform would crop."""
    from torchvision.transforms import RandomResizedCrop

    channels = torch.from_numpy(pixels).permute(2, 0, 1)
    top, left, height, width = RandomResizedCrop.get_params(channels, SCALE, (3 / 4, 4 / 3))
    return pixels[top : top + height, left : left + width]


def normalised(torch: Any, channels: Any) -> Any:
    """uint8 [3, h, w] as CLIP's towers of PyTorch read it."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (channels.float() / 255 - mean) / std


def tensorflow(path: str) -> Batches:
    """tf.data as its guide has it: only the crop is decoded, then an antialiased resize. TensorFlow has no tokenizer of
    CLIP; this project's is called through `numpy_function`."""
    import tensorflow as tf

    from bigcl.data.tokenizers import CLIP

    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    data = [[files[name] for name in sorted(files) if name.endswith(end)] for end in (".jpg", ".txt")]
    tokenizer = CLIP()

    def read(jpeg: Any, text: Any) -> Any:
        whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(jpeg), whole, area_range=SCALE, aspect_ratio_range=(3 / 4, 4 / 3)
        )
        crop = tf.io.decode_and_crop_jpeg(jpeg, tf.concat([begin[:2], size[:2]], 0), channels=3)
        picture = tf.cast(tf.image.resize(crop, (SIZE, SIZE), "bicubic", antialias=True), tf.uint8)
        return picture, tf.numpy_function(lambda text: tokenizer(text.decode(), 77), [text], tf.int32)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    batches = tf.data.Dataset.from_tensor_slices(tuple(data)).repeat().map(read).batch(BATCH).prefetch(2)
    return iter(batches.with_options(options))


PIPELINES = {
    "bigcl": bigcl,
    "bigcl, whole JPEGs": functools.partial(bigcl, whole=True),
    "bigcl, Pillow alone": functools.partial(bigcl, fast=False),
    "open_clip": pytorch,
    "open_clip, Pillow in draft mode": functools.partial(pytorch, decode="draft"),
    "PyTorch with OpenCV": functools.partial(pytorch, decode="opencv"),
    "PyTorch with simplejpeg": functools.partial(pytorch, decode="simplejpeg"),
    "tf.data": tensorflow,
}
PACKAGES = (
    "pillow",
    "simplejpeg",
    "cykooz-resizer",
    "opencv-python-headless",
    "tensorflow-cpu",
    "torch",
    "torchvision",
)
PACKAGES += ("open_clip_torch", "webdataset", "grain")


def cpu_seconds(process: str | int = "self") -> float:
    """Processor time of a process and of those below it."""
    folder = pathlib.Path("/proc", str(process))
    user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    children = [child for file in folder.glob("task/*/children") for child in file.read_text().split()]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children))


def measure(name: str, path: str, batches: int, rounds: int) -> list[float]:
    """Pictures a second of processor time, one number for each round."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    iterator, rates = PIPELINES[name](path), []
    for _ in range(4):  # the worker has started, and what is ready ahead of time is ready
        next(iterator)
    for _ in range(rounds):
        began = cpu_seconds()
        for _ in range(batches):
            next(iterator)
        rates.append(batches * BATCH / (cpu_seconds() - began))
    return rates


def installed(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those that there are."""
    known = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    return {p: known[name] for p in packages if (name := p.lower().replace("_", "-")) in known}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batches", type=int, default=10, help=f"batches of {BATCH} in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pipelines", nargs="*", default=list(PIPELINES), choices=list(PIPELINES))
    parser.add_argument("--tar", help=argparse.SUPPRESS)  # of the process that measures one pipeline
    args = parser.parse_args()
    if args.tar:
        print(json.dumps(measure(*args.pipelines, args.tar, args.batches, args.rounds)))
        os._exit(0)  # not all libraries end their workers when told to
    versions = installed(PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        tar = pathlib.Path(folder) / "0.tar"
        write_tar(tar, args.pictures)
        for name in args.pipelines:
            command = [sys.executable, __file__, "--tar", str(tar), "--pipelines", name]
            command += ["--batches", str(args.batches), "--rounds", str(args.rounds)]
            modules = os.pathsep.join([".", *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": modules})
            result: dict[str, Any] = {"benchmark": "input", "pipeline": name}
            if ran.returncode == 0:
                rates = json.loads(ran.stdout.splitlines()[-1])
                result |= {"per_second_and_core": round(statistics.median(rates)), "rounds": [round(r) for r in rates]}
            else:
                result["error"] = f"status {ran.returncode}"
            print(json.dumps({**result, "python": platform.python_version(), **versions}), flush=True)


if __name__ == "__main__":
    main()
