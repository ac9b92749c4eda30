"""Batches on the devices, and the time that they were waited for."""

import time

import jax
import numpy as np
import pytest

from bigcl.data.feed import Feed
from bigcl.mesh import batch_sharding, make_mesh

SLOW = 0.3


class Output:
    """What a step gives: ready when its time has come."""

    def __init__(self, seconds):
        self.ready = time.perf_counter() + seconds

    def is_ready(self):
        return time.perf_counter() >= self.ready


def feed(pause=0.0):
    """Batches 0, 1, 2, each after a pause."""

    def batches():
        for i in range(3):
            time.sleep(pause)
            yield {"x": np.full(8, i, np.int32), "index": np.arange(8)}

    return Feed(batches(), batch_sharding(make_mesh()))


def test_gives_the_batches_in_order_on_all_devices():
    f = feed()
    for i in range(3):
        batch = f.take()
        assert list(batch) == ["x"] and len(batch["x"].sharding.device_set) == jax.device_count()
        np.testing.assert_array_equal(batch["x"], np.full(8, i))
    f.close()


def test_waiting_counts_when_the_devices_have_nothing_to_do():
    f = feed(pause=SLOW)
    f.take()
    assert f.waited > 0.9 * SLOW
    f.close()


def test_waiting_beside_a_step_in_progress_does_not_count():
    f = feed(pause=SLOW)
    f.take(after=Output(100.0))
    assert f.waited == 0.0
    f.close()


def test_an_error_of_the_reader_arrives():
    def broken():
        raise KeyError("image")
        yield

    f = Feed(broken(), batch_sharding(make_mesh()))
    with pytest.raises(KeyError, match="image"):
        f.take()
    f.close()
