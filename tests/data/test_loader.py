"""A batch depends on (seed, step) alone: not on hosts, workers, or where the run started."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl import registry
from bigcl.data.loader import Loader, bad_records, pad_batches
from bigcl.data.order import permute
from bigcl.data.sources import BadRecord, is_remote, reads
from bigcl.data.sources.arrays import Arrays, Synthetic
from bigcl.data.sources.noisy import Noisy
from bigcl.data.transforms.image import Shift

SPEC = {"image": {"shape": [8, 8, 3], "dtype": "uint8"}, "text": {"shape": [4], "dtype": "int32", "high": 99}}


class Noise:
    """A transform that uses its random numbers in the plainest way."""

    def __call__(self, example, rng):
        return {**example, "noise": rng.random(3)}


def make(source=None, transforms=None, **options):
    source = Synthetic(SPEC, size=37) if source is None else source
    transforms = [Shift(2), Noise()] if transforms is None else transforms
    return Loader(source, transforms, **{"batch": 24, "seed": 5, **options})


def take(loader, count, start=0):
    batches = loader.batches(start)
    result = [next(batches) for _ in range(count)]
    batches.close()
    return result


def assert_same(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            assert batch[key].dtype == other[key].dtype
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.mark.parametrize("hosts", [2, 3, 8])
def test_hosts_together_see_what_one_sees(hosts):
    parts = [take(make(process_index=p, process_count=hosts), 3) for p in range(hosts)]
    joined = [{k: np.concatenate([part[step][k] for part in parts]) for k in parts[0][0]} for step in range(3)]
    assert_same(joined, take(make(), 3))


@given(start=st.integers(0, 10**9), prefetch=st.integers(0, 4))
@settings(max_examples=10, deadline=None)
def test_starting_at_a_step_is_continuing(start, prefetch):
    later = take(make(prefetch=prefetch), 2, start + 1)
    assert_same(take(make(prefetch=2), 3, start)[1:], later)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_passed_over_leave_the_order_as_it_is(workers):
    source = Synthetic(SPEC, size=37)
    loader, whole = make(source, [Shift(2)], workers=workers), make(source, [Shift(2)])
    loader.passed_over = 4
    assert_same(take(loader, 2, start=3), take(whole, 2, start=7))
    np.testing.assert_array_equal(loader.indices(3), whole.indices(7))


def test_worker_processes_change_nothing():
    source = Synthetic(SPEC, size=37)
    assert_same(take(make(source, [Shift(2)], workers=2), 4, start=3), take(make(source, [Shift(2)]), 4, start=3))


def test_a_batch_says_which_examples_it_holds():
    loader = make(Arrays({"value": np.arange(37) * 10}), [])
    batch = take(loader, 1, start=7)[0]
    assert batch["index"].dtype == np.int64
    np.testing.assert_array_equal(batch["index"], permute(7 * 24 + np.arange(24), 37, seed=5))
    np.testing.assert_array_equal(batch["index"], loader.indices(7))
    np.testing.assert_array_equal(batch["value"], batch["index"] * 10)


def test_an_example_gets_other_random_numbers_in_each_epoch_seed_and_row():
    source = Arrays({"value": np.zeros(12)})
    first, second = (b["noise"] for b in take(make(source, [Noise()], batch=12), 2))
    other = take(make(source, [Noise()], batch=12, seed=6), 1)[0]["noise"]
    assert len(np.unique(np.concatenate([first, second, other]))) == 3 * 12 * 3


def test_only_numbers_reach_the_batch_and_spec_tells_which():
    rows = {
        "image": np.zeros((5, 2, 2, 3), np.uint8),
        "label": [1, 2, 3, 4, 5],
        "weight": [0.5] * 5,
        "flag": [True] * 5,
        "text": ["a"] * 5,
        "bytes": [b"a"] * 5,
        "names": [{"en": "a"}] * 5,
        "missing": [None] * 5,
        "words": np.array(["a"] * 5),
    }
    loader = make(Arrays(rows), [], batch=6, process_count=2)
    batch = take(loader, 1)[0]
    assert set(batch) == {"image", "label", "weight", "flag", "index"}
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, v.dtype) for k, v in loader.spec().items()
    }
    assert batch["image"].shape == (3, 2, 2, 3)


def test_without_shuffle_the_order_is_the_source_s():
    assert [b["index"].tolist() for b in take(make(shuffle=False, batch=20), 2)] == [
        list(range(20)),
        [*range(20, 37), 0, 1, 2],
    ]


class Together:
    """A source that answers when so many read it at once, and else never; one example is bad."""

    remote = True

    def __init__(self, readers):
        self.barrier = threading.Barrier(readers, timeout=30)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        self.barrier.wait()
        if index == 5:
            raise BadRecord(reason="broken")
        return {"x": index}


def test_remote_examples_are_read_side_by_side():
    source = Together(16)
    found = list(reads(source, range(64)))
    assert [e["x"] for i, e in enumerate(found) if i != 5] == [i for i in range(64) if i != 5]
    assert isinstance(found[5], BadRecord)
    alone = Together(1)
    batch = Loader(alone, [], batch=64, seed=3).host_batch(0)
    alone.remote = False
    expected = Loader(alone, [], batch=64, seed=3).host_batch(0)
    assert all(np.array_equal(batch[k], expected[k]) for k in expected) and "bad" in expected
    source.barrier.abort()
    with pytest.raises(threading.BrokenBarrierError) as caught:
        list(reads(source, range(64)))
    assert caught.value.__notes__ == ["in the source, for example 0 of Together"]


def test_what_wraps_a_remote_source_is_remote(monkeypatch):
    for inner, far in ((Together(1), True), ([{"x": 1}], False)):
        monkeypatch.setattr(registry, "build", lambda kind, part, inner=inner: inner)
        assert is_remote(Noisy({"kind": "stands in"})) is is_remote(inner) is far


def test_a_field_of_repeats_that_is_not_there_is_named():
    source = [{"x": 1, "text": "a"}] * 3 + [{"x": 2}]
    batch = Loader(source, [], batch=4, seed=0, repeats=["text"]).host_batch(0)
    assert bad_records(batch)[0]["reason"] == "no 'text' in the example, which has x"
    assert len(set(batch["repeats"][:, 0].tolist())) == 1
    with pytest.raises(BadRecord, match="no 'picture' in the example, which has x, text"):
        Loader(source[:3], [], batch=4, seed=0, repeats=["picture"]).host_batch(0)


def test_uneven_shapes_name_the_key():
    loader = make(Arrays({"points": [np.zeros(2), np.zeros(3)]}), [], batch=2)
    with pytest.raises(ValueError, match=r"'points' has shapes \(2,\) and \(3,\)"):
        loader.host_batch(0)


def test_an_error_names_the_example_and_the_transform():
    class Fails:
        """Refuses one example."""

        def __call__(self, example, rng):
            return {"value": 1 // int(example["value"])}

    loader = make(Arrays({"value": [3, 2, 0, 1]}), [Fails()], batch=4, shuffle=False)
    with pytest.raises(ZeroDivisionError) as caught:
        loader.host_batch(0)
    assert caught.value.__notes__ == ["in Fails, for example 2 of arrays"]


def test_rows_must_divide_among_processes():
    with pytest.raises(ValueError, match="24 does not divide among 5"):
        make(process_count=5)


@given(size=st.integers(1, 30), batch=st.sampled_from([4, 8, 12]), hosts=st.sampled_from([1, 2, 4]))
@settings(max_examples=25, deadline=None)
def test_a_padded_pass_holds_every_example_once(size, batch, hosts):
    source = Arrays({"value": np.arange(size) + 100})
    seen = []
    for host in range(hosts):
        batches = list(pad_batches(source, [Noise()], batch=batch, process_index=host, process_count=hosts))
        assert len(batches) == -(-size // batch)
        for b in batches:
            assert b["valid"].dtype == bool and {v.shape[0] for v in b.values()} == {batch // hosts}
            seen += (b["value"] - 100)[b["valid"]].tolist()
    assert sorted(seen) == list(range(size))


def test_a_padded_pass_is_the_same_every_time():
    source = Synthetic(SPEC, size=10)
    passes = [list(pad_batches(source, [Shift(2), Noise()], batch=4)) for _ in range(2)]
    assert_same(*passes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_leave_a_notice_to_the_trainer(number):
    """Slurm sends it to all processes of a job, a terminal to all in front; the steps until all agree need batches."""
    batches = make(workers=2).batches()
    found = [next(batches) for _ in range(2)]  # one from each: both are there
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, number)
    found += [next(batches) for _ in range(10)]
    batches.close()
    assert_same(found, take(make(), 12))


KILLED = """
import multiprocessing, os, signal
from tests.data.test_loader import make

if __name__ == "__main__":
    batches = make(workers=2).batches()
    next(batches), next(batches)
    print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def alive(pid):
    """Whether there is such a process, one that nobody has waited for aside."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_do_not_outlive_a_trainer_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with (tmp_path / "pids").open("w") as file:  # a pipe would be held open by the workers
        done = subprocess.run([sys.executable, str(tmp_path / "killed.py")], env=env, stdout=file)
    assert done.returncode == -signal.SIGKILL
    workers = (tmp_path / "pids").read_text().split()
    assert len(workers) == 2
    deadline = time.monotonic() + 300
    while left := [pid for pid in workers if alive(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
            raise AssertionError(f"workers {left} are still there")
        time.sleep(0.1)
