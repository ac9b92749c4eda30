"""A plan as a person reads it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigcl.planning.advice import Option, written
from bigcl.planning.planner import Plan


def describe(plan: Plan) -> str:
    """The whole plan."""
    return "\n".join([*summary(plan), "", *collectives(plan), "", *temporaries(plan), *plan.notes, "", verdict(plan)])


def summary(plan: Plan) -> Iterator[str]:
    """What, where, and the totals."""
    m, f = plan.memory, plan.flops
    yield f"a step of batch {plan.batch:,} on {plan.devices}: {settings(plan.settings)}"
    yield f"parameters      {plan.parameters:,}"
    parts = f"arguments {size(m['arguments'])} + temporaries {size(m['temporaries'])} + outputs {size(m['outputs'])}"
    limit = "" if m["limit"] is None else f" of {size(m['limit'])} ({(m['peak'] or 0) / m['limit']:.0%})"
    yield f"memory a chip   {parts} = peak {size(m['peak'])}{limit}"
    yield (
        f"computation     {size(f['step'], 'FLOP')} a step, {size(f['pair'], 'FLOP')} a pair; "
        f"a chip executes {size(f['chip'], 'FLOP')}, recomputation included"
    )
    yield f"memory traffic  {size(plan.hbm_bytes)} a chip and step"
    if plan.bound is None or plan.host_rate is None:
        yield "step time       no bound: the figures of this device are not known"
        return
    by, seconds = plan.bound
    bounds = ", ".join(f"{name} {time(s)}" for name, s in plan.seconds.items())
    yield f"step time       at least {time(seconds)}, bound by {by} ({bounds})"
    yield f"throughput      at most {plan.batch / seconds:,.0f} pairs/s, MFU {plan.max_mfu:.0%}"
    yield (
        f"input           {plan.hosts:,} host(s), each with {plan.host_rate:,.0f} pairs/s and "
        f"{size(plan.host_rate * plan.example_bytes)}/s to make ready at that pace"
    )


def collectives(plan: Plan) -> Iterator[str]:
    """One line for each kind and axes."""
    yield "collectives (bytes that one chip sends in a step)" if plan.collectives else "no collectives"
    for c in plan.collectives:
        over = "+".join(c.axes) + (", between slices" if c.dcn else "")
        total = f"{size(c.bytes):>8} in {c.count:,.0f}"
        yield f"  {c.kind:<20} over {over:<28} {total:<20} largest: {c.shapes[0]} {c.source}"


def temporaries(plan: Plan) -> Iterator[str]:
    """The largest ones."""
    yield "largest temporaries at the peak"
    for t in plan.temporaries:
        shape = f"{t.count} x {t.shape}" if t.count > 1 else t.shape
        yield f"  {size(t.bytes):>10}  {shape:<32} {t.source or '(no source)':<44} {t.op[-60:]}"


def verdict(plan: Plan) -> str:
    """Whether it fits."""
    if plan.fits:
        return "fits"
    if not plan.error and plan.memory["limit"] is None:
        return "no verdict: the memory of this device is not known"
    return f"does not fit: {plan.error or 'the peak is above the memory of a chip'}"


def describe_options(options: Sequence[Option], count: int = 5) -> str:
    """The best of a search, one line each."""
    if not options:
        return "nothing that was tried fits"
    lines = ["settings that fit, fastest bound first"]
    for option in options[:count]:
        peak = size(option.plan.memory["peak"])
        by, seconds = option.plan.bound or ("", 0.0)
        bound = f"at least {time(seconds)} ({by}), " if option.plan.bound else ""
        lines.append(f"  {bound}peak {peak}: {written(option.changes)}")
    return "\n".join(lines)


def settings(values: Mapping[str, Any]) -> str:
    """Mesh, micro-batch and remat policies."""
    mesh = " x ".join(f"{axis} {n}" for axis, n in values["mesh"].items() if n > 1) or "one device"
    rows = values["microbatch"]
    policies = ", ".join(f"{name} {policy}" for name, policy in values["remat"].items())
    return f"mesh {mesh}; micro-batch {f'{rows:,}' if rows else 'none'}; remat {policies or 'none'}"


def size(count: float | None, unit: str = "B") -> str:
    """An amount in decimal units."""
    value, power = float(count or 0), 0
    while value >= 999.5 and power < 5:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {['', 'k', 'M', 'G', 'T', 'P'][power]}{unit}"


def time(seconds: float) -> str:
    """Seconds, or milliseconds below one."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
