"""Plans of SigLIP B/16 at 224 px on TPU, against what big_vision's own model and loss need on the same chips: 64
tokens, attention pooling, scanned layers, nothing saved, data parallel on v5e:16x16."""

import functools
import runpy

import pytest

from bigcl.config import plain
from bigcl.experiment import Experiment
from bigcl.planning.advice import with_changes
from bigcl.planning.planner import make_plan
from bigcl.planning.topology import devices_of

pytest.importorskip("libtpu", reason='compiles for TPU: pip install "bigcl[tpu-aot]"')
pytestmark = pytest.mark.slow  # one to three minutes each


@functools.cache
def plan(batch, slices=1, **changes):
    config = plain(runpy.run_path("configs/siglip.py")["get_config"](f"size=B/16,batch={batch}"))
    changed = with_changes(Experiment.resolve(config), [(k.replace("_", ".", 1), v) for k, v in changes.items()])
    return make_plan(changed, devices_of("v5e:16x16", slices))


@pytest.mark.parametrize(("batch", "temporaries"), [(32_768, 2.37e9), (131_072, 6.73e9)])
def test_it_needs_less_than_big_vision(batch, temporaries):
    it = plan(batch)
    assert it.fits and it.memory["arguments"] <= 2.52e9 and it.memory["temporaries"] < temporaries
    assert not any(f"[{batch},{batch}]" in s for c in it.collectives for s in c.shapes)


def test_sharded_parameters_leave_little():
    it = plan(32_768, mesh_fsdp=256)
    assert it.fits and it.memory["arguments"] < 0.3e9 and it.memory["temporaries"] < 2.37e9


def test_a_million_pairs_fit_in_micro_batches():
    it = plan(2**20, slices=4, train_microbatch=2**17)
    assert it.fits and it.chips == 1024
    assert {a for c in it.collectives if c.dcn for a in c.axes} == {"replica"}
