"""Towers whose tokens one module reads together."""

from typing import ClassVar

from jaxtyping import Array, Float, Key

from bigcl.registry import ConfigError, nearest
from bigcl.tasks.task import Batch
from bigcl.tasks.two_tower import TwoTower
from bigcl.towers import layers


class Joint(TwoTower):
    """Towers, of which some are read together: what comes of it is one more output, compared like an input.

    A subclass says how that output is called, and has the module that reads, an option of the task of the same name,
    in the attribute `reader`; `of` of that module are the inputs that it reads.
    """

    reader: ClassVar[str]
    output: ClassVar[str]

    def read_tokens(self) -> None:
        """To be called once the reader is there. Raises ConfigError if there is no such input."""
        of = getattr(self, self.reader).of
        for name in of:
            if name not in self.inputs:
                raise ConfigError(f"task.{self.reader}.of: unknown input {name!r}; {nearest(name, self.inputs)}")
        self.wanted = self.wanted | {f"{name}.tokens" for name in of}

    def outputs(self) -> list[str]:
        return [*super().outputs(), self.output]

    def forward(self, batch: Batch, rng: Key[Array, "b"] | None) -> dict[str, Array]:
        own, ours = (None, None) if rng is None else layers.split_keys(rng, 2)
        outputs, reader = super().forward(batch, own), getattr(self, self.reader)
        if all(name in batch for name in reader.of):
            tokens, masks = ([outputs[f"{name}.{what}"] for name in reader.of] for what in ("tokens", "mask"))
            outputs[self.output] = self.finished(reader(tokens, masks, ours))
        return outputs

    def encode(self, batch: Batch) -> dict[str, Float[Array, "b d"]]:
        return {name: z for name, z in self.forward(batch, None).items() if name in (*self.inputs, self.output)}
