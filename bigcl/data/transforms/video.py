"""Transforms of video, decoded by PyAV (`pip install "bigcl[video]"`)."""

import io
from types import ModuleType
from typing import Literal

import numpy as np
from jaxtyping import Int64

from bigcl.data.sources import BadRecord, Example
from bigcl.data.transforms import field
from bigcl.data.transforms.image import Filter, resize, shorter_side


class DecodeVideo:
    """Encoded bytes of a video -> uint8 [frames, H, W, 3].

    The video is cut into `frames` segments of equal length, and one frame taken from each (Wang et al. 2016, "Temporal
    segment networks"). A shorter video repeats frames. Raises BadRecord for what is no video or ends early.

    place: where in its segment a frame is taken: "random", or in the "middle".
    size: length of the shorter side of the frames, in pixels; None keeps them.
    """

    def __init__(
        self,
        frames: int,
        place: Literal["random", "middle"] = "random",
        size: int | None = None,
        method: Filter = "bicubic",
        key: str = "video",
    ):
        import_av()
        self.frames, self.place, self.size, self.method, self.key = frames, place, size, method, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        av, data = import_av(), field(example, self.key)
        try:
            with av.open(io.BytesIO(data)) as file:
                stream = file.streams.video[0]
                count = sum(packet.size > 0 for packet in file.demux(stream))
                file.seek(0)
                wanted = segment_places(count, self.frames, rng if self.place == "random" else None)
                last, found = wanted[-1], {}
                for index, frame in enumerate(file.decode(stream)):
                    if index in wanted:
                        found[index] = self.shrink(frame.to_ndarray(format="rgb24"))
                    if index == last:
                        break
        except (av.FFmpegError, IndexError, ValueError) as error:
            raise BadRecord(reason=f"no video can be made of it: {type(error).__name__}: {error}") from error
        if last not in found:
            raise BadRecord(reason=f"a video that ends before frame {last} of {count}")
        return {**example, self.key: np.stack([found[i] for i in wanted.tolist()])}

    def shrink(self, frame: np.ndarray) -> np.ndarray:
        """A frame at the size that is kept."""
        return frame if self.size is None else resize(frame, shorter_side(frame.shape, self.size), self.method)


def import_av() -> ModuleType:
    """The library, or what to install."""
    try:
        import av
    except ImportError as error:
        raise ImportError('decode_video needs PyAV: pip install "bigcl[video]"') from error
    return av


def segment_places(count: int, segments: int, rng: np.random.Generator | None) -> Int64[np.ndarray, " segments"]:
    """One index in range(count) from each of `segments` equal parts of it: random, or the middle. Raises ValueError if
    there are none."""
    if count == 0:
        raise ValueError("it has no frames")
    within = np.full(segments, 0.5) if rng is None else rng.random(segments)
    return np.minimum(((np.arange(segments) + within) * count / segments).astype(np.int64), count - 1)
