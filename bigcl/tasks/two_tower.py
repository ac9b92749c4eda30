"""Two towers or more, and a list of what is contrasted with what: CLIP, SigLIP, ALIGN, LiT, CLIPPO and scores of other
methods from config alone."""

import graphlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from bigcl import registry
from bigcl.losses import l2_normalize, uniformity
from bigcl.losses.similarity import at_least_float32
from bigcl.losses.telemetry import pair_statistics
from bigcl.registry import ConfigError, Part
from bigcl.tasks.state import Queue, Teacher
from bigcl.tasks.task import Batch, Metrics, Moment, Task
from bigcl.tasks.terms import make_terms
from bigcl.towers.encoding import Encoding
from bigcl.towers.layers import split_keys


class TwoTower(Task):
    """Towers whose outputs are compared by losses.

    towers: for each input its tower. The batch key of an input is its name; `<name>_mask`, where present, says which of
        its tokens are real, `<name>_shape` in what grid they lie. A string instead of a part names another input whose
        tower is shared (CLIPPO, Tschannen et al. 2023), which also makes views of one input.
    losses: each a loss with
        `of`, the outputs that it compares: an input's embedding (`image`), its tokens (`image.tokens`), the features
        that the tower's last linear layer reads (`image.features`), a head's output of any of them (`local/image`),
        what the teacher makes of it (`teacher/image`, `teacher/local/image.features`);
        `weight` (default 1), and `when`, the shares of the run between which it counts, as [0, 0.33];
        `scale`, a fixed inverse temperature or the name of one of `scales`; by default the task's own;
        `with`, further arrays it takes, each by the name of an output, of a batch key, or of one of `scales`, as
        {"labels": "class"};
        `embeddings`, "bfloat16" for outputs rounded before this loss, whose products then take a TPU one pass instead
        of six and whose exchange half the bytes, for the errors in docs/performance.md (default: as they are, float32;
        logits and sums are float32 either way);
        `name` in the log. Default: one `infonce` of the first two inputs.
    heads: projections of outputs for the losses alone, each a head with `of`, the outputs that it reads, of other heads
        too; it reads outputs side by side whose names are joined by "+", as `fused/image+text` comes of ["image+text"].
    teacher: an untrained copy of towers and heads, see `Teacher`; an empty part is one that stays as the run began.
    queues: rows of past batches, see `Queue`; `past/teacher/image` is what the queue `past` has of that output, as in
        {"negatives_b": "past/teacher/image"}.
    scales: further learned inverse temperatures, by name, each with its start.
    normalize: whether embeddings have unit length.
    init_scale: start of the learned inverse temperature; None: 1 / 0.07 (CLIP), or 10 with a sigmoid loss (SigLIP).
    max_scale: the scales are clamped here after each step; None: 100 (CLIP), or no bound with a sigmoid loss (SigLIP).
    init_bias: start of the learned bias of sigmoid losses; None: -log(batch - 1), near SigLIP's -10 at its batch of
        32,768.
    """

    def __init__(
        self,
        *,
        towers: Mapping[str, Annotated[Part, "tower"] | str],
        losses: Sequence[Annotated[Part, "loss"]] | None = None,
        heads: Mapping[str, Annotated[Part, "head"]] = {},
        teacher: Annotated[Part, Teacher] | None = None,
        queues: Mapping[str, Annotated[Part, Queue]] = {},
        scales: Mapping[str, float] = {},
        normalize: bool = True,
        init_scale: float | None = None,
        max_scale: float | None = None,
        init_bias: float | None = None,
        batch_size: int,
        steps: int | None = None,
        vocab: int | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        losses = [{"kind": "infonce", "of": list(towers)[:2]}] if losses is None else losses
        self.steps, self.normalize = steps, normalize
        self.inputs = {name: part if isinstance(part, str) else name for name, part in towers.items()}
        self.towers = self.make_towers(towers, vocab=vocab, dtype=dtype, rngs=rngs)
        self.read_by, self.joined = in_order({name: tuple(part.get("of", ())) for name, part in heads.items()})
        self.heads = nnx.Dict({n: registry.build("head", p, dtype=dtype, rngs=rngs) for n, p in heads.items()})
        self.taught, self.kept_by = teacher is not None, {n: tuple(part["of"]) for n, part in queues.items()}
        self.terms = nnx.static(make_terms(losses, self.outputs(), ("", *scales)))
        self.wanted = self.asked_for()
        copied = [n for n, read in self.read_by.items() if self.wanted.intersection(f"teacher/{n}/{x}" for x in read)]
        copies = nnx.Dict({name: self.heads[name] for name in copied})
        self.teacher = None if teacher is None else Teacher(self.towers, copies, **teacher)
        self.queues = nnx.Dict({name: Queue(**part, rngs=rngs) for name, part in queues.items()})

        sigmoid = any(part["kind"] == "sigmoid" for part in losses)
        self.notes = []
        if init_scale is None:
            init_scale = 10.0 if sigmoid else 1 / 0.07
            self.notes.append(f"task.init_scale = {init_scale:.4g} ({'SigLIP' if sigmoid else 'CLIP'})")
        if init_bias is None and sigmoid:
            init_bias = -math.log(max(2, batch_size) - 1)
            self.notes.append(f"task.init_bias = {init_bias:.4g}, -log(batch - 1) at batch {batch_size}")
        self.max_scale = (math.inf if sigmoid else 100.0) if max_scale is None else max_scale
        self.log_scale = log_of(init_scale)
        self.log_scales = nnx.Dict({name: log_of(start) for name, start in scales.items()})
        self.bias = nnx.Param(jnp.asarray(init_bias, jnp.float32)) if sigmoid else None

    def make_towers(self, towers: Mapping[str, Part | str], **context: Any) -> nnx.Dict:
        """The towers that there are; ConfigError for a name that shares none, or a vocabulary that is too small."""
        for name, tower in self.inputs.items():
            if self.inputs.get(tower) != tower:
                raise ConfigError(
                    f"task.towers.{name}: shares the tower of {tower!r}, which has none; "
                    f"{registry.nearest(tower, towers)}"
                )
        made = {n: registry.build("tower", p, **context) for n, p in towers.items() if not isinstance(p, str)}
        vocab = context["vocab"]
        for name, tower in made.items():
            if vocab is not None and getattr(tower, "vocab", vocab) < vocab:
                raise ConfigError(
                    f"task.towers.{name}.vocab: {tower.vocab} is smaller than the tokenizer's vocabulary of {vocab}; "
                    "leave it out"
                )
        return nnx.Dict(made)

    def outputs(self) -> list[str]:
        """Names of all that can be compared."""
        names = [f"{n}{what}" for what in ("", ".tokens", ".features") for n in self.inputs]
        if self.taught:
            names += [f"teacher/{n}{what}" for what in ("", ".features") for n in self.inputs]
        for section, reads in (("heads", self.read_by), ("queues", self.kept_by)):
            for part, read in reads.items():
                for name in itertools.chain(*(self.joined.get(name, (name,)) for name in read)):
                    if name not in names:
                        what = f"task.{section}.{part}.of: unknown {name!r}"
                        raise ConfigError(f"{what}; {registry.nearest(name, names)}")
                made = [f"{part}/{name}" for name in read]
                copies = [f"teacher/{name}" for name in made] if self.taught and section == "heads" else []
                names += [*made, *copies]
        return names

    def asked_for(self) -> frozenset[str]:
        """Names of the outputs that losses, heads and queues read."""
        wanted = {name for term in self.terms for name in (*term.of, *dict(term.arrays).values())}
        wanted.update(*self.kept_by.values())
        for head, read in reversed(self.read_by.items()):
            for name in read:
                wanted.update(self.joined[name])
                if f"teacher/{head}/{name}" in wanted:
                    wanted.update(f"teacher/{part}" for part in self.joined[name])
        return frozenset(wanted)

    def forward(self, batch: Batch, rng: Key[Array, "b"] | None) -> dict[str, Array]:
        present = [n for n in self.inputs if n in batch]
        keys = dict.fromkeys(present) if rng is None else dict(zip(present, split_keys(rng, len(present)), strict=True))
        outputs = {}
        for name in present:
            inputs = batch[name], batch.get(f"{name}_mask")
            shape = {"shape": batch[f"{name}_shape"]} if f"{name}_shape" in batch else {}
            encoding = self.towers[self.inputs[name]](*inputs, keys[name], **shape)
            outputs[name] = self.finished(self.pooled(name, encoding))
            if f"{name}.tokens" in self.wanted:
                outputs[f"{name}.tokens"] = encoding.tokens
                outputs[f"{name}.mask"] = encoding.mask
            if f"{name}.features" in self.wanted:
                outputs[f"{name}.features"] = encoding.features
            if self.teacher is not None and self.wanted & {f"teacher/{name}", f"teacher/{name}.features"}:
                taught = self.teacher.towers[self.inputs[name]](*inputs, None, **shape)
                made = {f"teacher/{name}": self.finished(taught.embedding), f"teacher/{name}.features": taught.features}
                outputs |= {k: jax.lax.stop_gradient(v) for k, v in made.items() if k in self.wanted}
        return outputs

    def pooled(self, name: str, encoding: Encoding) -> Float[Array, "b d"]:
        """The vector of each example, before it is normalised, from what the tower of the input `name` gives."""
        return encoding.embedding

    def finished(self, embedding: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """An embedding as losses and evaluators see it."""
        return l2_normalize(embedding) if self.normalize else at_least_float32(embedding)

    def objective(
        self, outputs: dict[str, Array], batch: Batch, moment: Moment | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        scales = {"": jnp.exp(self.log_scale[...])}
        scales |= {name: jnp.exp(value[...]) for name, value in self.log_scales.items()}
        bias = None if self.bias is None else self.bias[...]
        outputs = {k: v for k, v in outputs.items() if v is not None}
        outputs |= self.projected(outputs)
        for queue, kept in self.queues.items():
            outputs |= {f"{queue}/{name}": rows[...] for name, rows in kept.rows.items()}

        by_row = "source" in batch and all(term.has_rows() for term in self.terms)
        total, rows = jnp.zeros(()), jnp.zeros(())
        metrics: Metrics = {"logit_scale" + (f"/{name}" if name else ""): scale for name, scale in scales.items()}
        if bias is not None:
            metrics["bias"] = bias
        for i, term in enumerate(self.terms):
            own = moment and moment._replace(rng=jax.random.fold_in(moment.rng, i))
            share = term.share(moment, self.steps)
            value = term(outputs, batch, scales, bias, own, by_row)
            rows, value = rows + share * value, value.mean()
            total = total + share * value
            metrics[f"loss/{term.name}"] = value
        if moment is not None:
            for kept in self.queues.values():
                kept.push(outputs)
        return total, {**metrics, "loss_rows": rows} if by_row else metrics

    def projected(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """What heads make of outputs, and the teacher's heads of the teacher's."""
        made: dict[str, Array] = {}
        for head, read in self.read_by.items():
            for name in read:
                known, each = {**outputs, **made}, self.joined[name]
                if missing := [part for part in each if part not in known]:
                    raise ConfigError(f"task.heads.{head}.of: a tower gives no {missing[0]!r} here")
                made[f"{head}/{name}"] = self.heads[head](side_by_side([known[part] for part in each]))
                if self.teacher is not None and f"teacher/{head}/{name}" in self.wanted:
                    taught = self.teacher.heads[head](side_by_side([known[f"teacher/{part}"] for part in each]))
                    made[f"teacher/{head}/{name}"] = jax.lax.stop_gradient(taught)
        return made

    def telemetry(self, outputs: dict[str, Array]) -> Metrics:
        found: Metrics = {}
        pairs = dict.fromkeys(term.of for term in self.terms if len(term.of) == 2 and set(term.of) <= set(self.inputs))
        for a, b in pairs if self.normalize else ():
            if outputs[a].shape == outputs[b].shape:
                numbers = pair_statistics(outputs[a], outputs[b], jnp.exp(self.log_scale[...]))
                found |= {f"{a}_{b}/{name}": value for name, value in numbers.items()}
                found |= {f"{name}/uniformity": uniformity(some(outputs[name])) for name in (a, b)}
        return found

    def encode(self, batch: Batch) -> dict[str, Float[Array, "b d"]]:
        return {name: z for name, z in self.forward(batch, None).items() if name in self.inputs}

    def reads(self) -> dict[str, jax.ShapeDtypeStruct]:
        found: dict[str, jax.ShapeDtypeStruct] = {}
        for name, tower in self.inputs.items():
            what = self.towers[tower].reads()
            found |= {f"{name}{key}": x for key, x in what.items()} if isinstance(what, Mapping) else {name: what}
        outputs = [*self.outputs(), *self.log_scales]
        beside = {key for term in self.terms for key in dict(term.arrays).values() if key not in outputs}
        return {**found, **{key: jax.ShapeDtypeStruct((), jnp.int32) for key in beside}}  # labels and the like

    def begin(self) -> None:
        if self.teacher is not None:
            self.teacher.begin(self.towers, self.heads)

    def after_update(self) -> None:
        for scale in (self.log_scale, *self.log_scales.values()):
            scale[...] = jnp.minimum(scale[...], math.log(self.max_scale))
        if self.teacher is not None:
            self.teacher.update(self.towers, self.heads)

    def describe(self) -> list[str]:
        return list(self.notes)


def in_order(read_by: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Heads and what they read, each after those whose outputs it reads, and of what outputs each of it is joined;
    ConfigError for heads that read one another."""
    made = {f"{head}/{name}" for head, read in read_by.items() for name in read}
    names = {name for read in read_by.values() for name in read}
    joined = {name: (name,) if name in made else tuple(name.split("+")) for name in names}
    needs = {
        head: [other for other in read_by if any(part.startswith(f"{other}/") for n in read for part in joined[n])]
        for head, read in read_by.items()
    }
    try:
        return {head: read_by[head] for head in graphlib.TopologicalSorter(needs).static_order()}, joined
    except graphlib.CycleError as error:
        raise ConfigError(f"task.heads: {' reads '.join(error.args[1])}") from error


def side_by_side(outputs: Sequence[Array]) -> Array:
    """Outputs joined along their last axis."""
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, -1)


def some(z: Float[Array, "b d"], rows: int = 512) -> Float[Array, "r d"]:
    """About so many rows, evenly over the batch, which give a mean over all pairs well enough; without gradient."""
    return jax.lax.stop_gradient(z[:: -(-len(z) // rows)])


def log_of(scale: float) -> nnx.Param:
    """A learned inverse temperature, by its logarithm."""
    return nnx.Param(jnp.asarray(math.log(scale), jnp.float32))
