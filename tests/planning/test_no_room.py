"""A step that the TPU compiler has no room for is still read: its plan says by how much, and where it goes."""

import pytest

from bigcl.planning import report
from bigcl.planning.planner import make_plan
from bigcl.planning.topology import devices_of
from tests.planning.test_planner import config

pytest.importorskip("libtpu", reason='compiles for TPU: pip install "bigcl[tpu-aot]"')


def test_a_step_without_room_has_a_plan():
    tower = {"width": 512, "depth": 8, "heads": 8, "remat": "none"}
    keys = {f"task.towers.{name}.{key}": value for name in ("image", "text") for key, value in tower.items()}
    changes = {"train.batch": 2**15, "train.dtype": "bfloat16", "task.towers.text.embed_dim": 512, **keys}
    plan = make_plan(config(**changes), devices_of("v5e:2x2"))
    assert not plan.fits and plan.error.startswith("RESOURCE_EXHAUSTED") and plan.error in report.describe(plan)
    kept = 8 * 8192 * 64 * 2048 * 2  # a hidden layer of the text tower, in each of eight layers
    assert plan.memory["temporaries"] > 5 * kept > plan.memory["limit"]
    assert plan.temporaries[0].shape == "bf16[8,8192,64,2048]" and plan.temporaries[0].source.startswith(
        "bigcl/towers/"
    )
