"""Learning-rate schedules: the share of the peak rate, in [0, 1], at each step 0, ..., steps - 1.

All rise linearly over `warmup` steps and reach the peak at step `warmup`. Lengths are in steps, or a share of the run
when below 1.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bigcl.registry import ConfigError

Step = Int[Array, ""] | int
Schedule = Callable[[Step], Float[Array, ""]]


def default_warmup(steps: int) -> int:
    """A tenth of the run, and no more than the 10,000 steps of SigLIP (Zhai et al. 2023)."""
    return min(10_000, steps // 10)


def constant(*, steps: int, warmup: int | float | None = None) -> Schedule:
    """The peak rate, once warm."""
    warm = warmup_length(warmup, steps)
    return lambda step: rise(step, warm)


def linear(*, steps: int, warmup: int | float | None = None, final: float = 0.0) -> Schedule:
    """A straight line from the peak to `final` of it."""
    warm = warmup_length(warmup, steps)
    return lambda step: rise(step, warm) * (1 - (1 - final) * progress(step, warm, steps))


def cosine(*, steps: int, warmup: int | float | None = None, final: float = 0.0) -> Schedule:
    """Half a cosine from the peak to `final` of it (Loshchilov and Hutter 2017, without restarts; CLIP and SigLIP)."""
    warm = warmup_length(warmup, steps)
    return lambda step: (
        rise(step, warm) * (final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress(step, warm, steps))))
    )


def stairs(*, steps: int, warmup: int | float | None = None, every: int | float = 0.3, factor: float = 0.1) -> Schedule:
    """The peak times `factor` once more after every so many steps from the start (He et al. 2016)."""
    warm, length = lengths(warmup, 0, steps)[0], round(every * steps) if 0 < every < 1 else int(every)
    if length < 1 or not 0 < factor <= 1:
        raise ConfigError(f"schedule: expected every > 0 and 0 < factor <= 1, got {every} and {factor}")
    return lambda step: rise(step, warm) * factor ** jnp.floor(number(step) / length)


def rsqrt(
    *, steps: int, warmup: int | float | None = None, cooldown: int | float = 0, timescale: int = 10_000
) -> Schedule:
    """`sqrt(timescale / (timescale + t))` at t steps after warm-up; over the last `cooldown` steps, times a line to
    zero (Zhai et al. 2022).

    Up to the cooldown the rate does not depend on the length of the run, so that a run can be prolonged.
    """
    warm, cool = lengths(warmup, cooldown, steps)

    def schedule(step: Step) -> Float[Array, ""]:
        late = jnp.maximum(number(step) - warm, 0)
        return rise(step, warm) * jnp.sqrt(timescale / (timescale + late)) * (1 - progress(step, steps - cool, steps))

    return schedule


def wsd(*, steps: int, warmup: int | float | None = None, cooldown: int | float = 0.2) -> Schedule:
    """Warm-up, stable, decay (Hu et al. 2024): the peak until `cooldown` steps before the end, then 1 - sqrt(share of
    the cooldown that is done), the form and length that Hägele et al. 2024 found best.
    """
    warm, cool = lengths(warmup, cooldown, steps)
    return lambda step: rise(step, warm) * (1 - jnp.sqrt(progress(step, steps - cool, steps)))


def rise(step: Step, warmup: int) -> Float[Array, ""]:
    """The warm-up: 1 / (warmup + 1) at step 0, since a step at rate 0 is a step for nothing."""
    return jnp.minimum((number(step) + 1) / (warmup + 1), 1)


def progress(step: Step, start: int, end: int) -> Float[Array, ""]:
    """Share of the way from step `start` to step `end`."""
    return jnp.clip((number(step) - start) / max(end - start, 1), 0, 1)


def number(step: Step) -> Float[Array, ""]:
    """A step as a float32 scalar."""
    return jnp.asarray(step, jnp.float32)


def warmup_length(warmup: int | float | None, steps: int) -> int:
    """Steps of warm-up."""
    return lengths(warmup, 0, steps)[0]


def lengths(warmup: int | float | None, cooldown: int | float, steps: int) -> tuple[int, int]:
    """Steps of warm-up and of cooldown. Raises ConfigError if the run is too short for them."""
    warmup = default_warmup(steps) if warmup is None else warmup
    warm, cool = (round(n * steps) if 0 < n < 1 else int(n) for n in (warmup, cooldown))
    if min(warm, cool) < 0 or warm + cool > steps:
        raise ConfigError(f"schedule: warmup {warmup} and cooldown {cooldown} do not fit into {steps} steps")
    return warm, cool
