"""Plans: `python -m bigcl.plan --config configs/siglip.py:size=L/16,batch=32768 --topology v5e:16x16 [--slices 4]`.

Compiles the training step of a config for TPUs or GPUs, on any machine, and says what it will need of each chip and
how long it takes at least. No data is opened. Exit status 0 only if it fits.

--config    a config file with its arguments, as for bigcl.train; --config.KEY=VALUE sets any key
--topology  v5e:16x16, v5p:4x4x8, v6e:8x8, ... (needs the extra tpu-aot); h100:8, or h200:4x8 for four hosts of eight
            (needs the extra gpu-aot); or local: the devices of this machine
--slices    how many such slices of TPUs, joined by the network of the data centre
--stage     which stage of a method of several (the last)
--json      prints JSON
--search    also tries mesh shapes, remat policies and micro-batches, each of which is compiled; prints the best few
"""

import json
import sys
from typing import Any

from absl import app, flags, logging

from bigcl import command, host
from bigcl.registry import ConfigError

TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Devices to plan for, such as v5e:16x16, h100:2x8, or local.", required=True
)
SLICES = flags.DEFINE_integer("slices", 1, "How many slices of that topology.", lower_bound=1)
STAGE = flags.DEFINE_string("stage", None, "Which stage of a method of several; the last if not given.")
JSON = flags.DEFINE_bool("json", False, "Print JSON.")
SEARCH = flags.DEFINE_bool("search", False, "Try mesh shapes, remat policies and micro-batches.")


def main(argv: list[str]) -> None:
    """Prints a plan; exits with 0 if it fits, 1 if it does not or nobody knows, and 2 for what cannot be planned."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; write overrides as --config.key=value")
        fits = run(command.given_config(), TOPOLOGY.value, SLICES.value)
    except (ConfigError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if fits else 1)


def run(config: dict[str, Any], topology: str, slices: int) -> bool:
    """Plans, prints, and says whether it fits."""
    import jax

    from bigcl import stages
    from bigcl.planning import advice, report
    from bigcl.planning.planner import make_plan
    from bigcl.planning.topology import devices_of

    config = stages.resolved(config)
    if "stages" in config and STAGE.value is None:
        say(f"the last of the stages {', '.join(config['stages'])}; --stage NAME for another")
    config = stages.choose(config, STAGE.value)
    if topology != "local":
        jax.config.update("jax_platforms", "cpu")  # nothing runs, whatever this machine has
    host.configure_jax()
    devices = devices_of(topology, slices)
    plan = make_plan(config, devices)
    found: dict[str, Any] = {}
    if SEARCH.value:
        found["search"] = advice.search(config, devices, plan.parameters, say)
    elif not plan.fits and plan.memory["limit"]:
        found["would_fit"] = advice.find_fit(plan, config, devices, say)
    if JSON.value:
        options = {
            k: v and ([o.as_json() for o in v] if isinstance(v, list) else v.as_json()) for k, v in found.items()
        }
        where = topology if slices == 1 else f"{slices} x {topology}"
        print(json.dumps({"topology": where} | plan.as_json() | options, indent=1))
        return plan.fits
    print(report.describe(plan))
    if "search" in found:
        print("", report.describe_options(found["search"]), sep="\n")
    elif "would_fit" in found:
        change = found["would_fit"]
        print(
            "nothing that was tried makes it fit" if change is None else f"would fit: {advice.written(change.changes)}"
        )
    return plan.fits


def say(line: str) -> None:
    """Progress, beside the result."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    host.end_with_reader()
    app.run(main, flags_parser=command.parser(__doc__))
