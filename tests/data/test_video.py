"""Video: frames of files that are written on the spot, whose pictures say which frame they are."""

import io
import pickle

import numpy as np
import pytest

from bigcl.data.sources import BadRecord
from bigcl.data.transforms.video import DecodeVideo, segment_places

RNG = np.random.default_rng(0)
av = pytest.importorskip("av", reason='pip install "bigcl[video]"')


def encode(frames=30, size=(64, 48), format="mp4", codec="mpeg4", grey=lambda k: 8 * k):
    """Frame k is evenly grey."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for k in range(frames):
            picture = np.full((size[1], size[0], 3), grey(k), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file.getvalue()


VIDEO = encode()


def shown(result):
    """Which frames these are."""
    return np.rint(result["video"].mean(axis=(1, 2, 3)) / 8).astype(int).tolist()


@pytest.mark.parametrize(
    "format, codec", [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("webm", "libvpx"), ("avi", "mpeg4")]
)
def test_the_middles_of_segments(format, codec):
    data = VIDEO if format == "mp4" else encode(format=format, codec=codec)
    result = DecodeVideo(5, "middle")({"video": data, "text": "a"}, RNG)
    assert result["video"].shape == (5, 48, 64, 3) and result["video"].dtype == np.uint8 and result["text"] == "a"
    assert shown(result) == [3, 9, 15, 21, 27]


def test_random_places_of_segments():
    seen = [set() for _ in range(3)]
    for seed in range(40):
        frames = shown(DecodeVideo(3)({"video": VIDEO}, np.random.default_rng(seed)))
        for segment, frame in zip(seen, frames, strict=True):
            segment.add(frame)
    for k, segment in enumerate(seen):
        assert len(segment) > 5 and segment <= set(range(10 * k, 10 * k + 10))


def test_a_function_of_the_generator_in_any_process():
    transform = DecodeVideo(4, size=24)
    copy = pickle.loads(pickle.dumps(transform))
    first, second = (t({"video": VIDEO}, np.random.default_rng(3))["video"] for t in (transform, copy))
    assert np.array_equal(first, second) and first.shape == (4, 24, 32, 3)


def test_a_short_video_repeats_frames():
    assert shown(DecodeVideo(6, "middle")({"video": encode(3)}, RNG)) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("data", [b"", b"no video", VIDEO[:200]])
def test_what_is_no_video_is_bad(data):
    with pytest.raises(BadRecord, match="no video can be made of it"):
        DecodeVideo(4)({"video": data}, RNG)


def test_a_sound_alone_is_no_video():
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(BadRecord, match="no video can be made of it"):
        DecodeVideo(4)({"video": file.getvalue()}, RNG)


def test_places():
    assert segment_places(10, 5, None).tolist() == [1, 3, 5, 7, 9]
    assert segment_places(1, 3, np.random.default_rng(0)).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="no frames"):
        segment_places(0, 3, None)
