"""Prompt sets, and class embeddings from them.

A set's name ends in its version, and its texts never change: an accuracy names what was asked. Better wording is a new
version beside the old one.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from bigcl.data.sources import Source
from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import embed_texts, unit
from bigcl.evals.metrics import several
from bigcl.interop.openai_prompts import imagenet_prompts
from bigcl.registry import ConfigError, nearest


class PromptSet(NamedTuple):
    """Templates, "{}" standing for the name, and where the data have only numbers, the names in their order."""

    templates: tuple[str, ...]
    classes: tuple[str, ...] | None = None


PHOTO = (
    "{}",
    "a picture of a {}",
    "a picture that shows the {}",
    "a close view of a {}",
    "a {} in the distance",
    "part of a {}",
    "several of the kind {}",
    "a blurred picture of a {}",
    "a dark picture of a {}",
    "a bright picture of a {}",
    "a drawing of a {}",
)
SMALL = ("{}", "a small picture of a {}", "a coarse picture of a {}", "a thumbnail that shows a {}", "a blurred {}")
FINE = ("{}", "a {}, a kind of {kind}", "a picture of a {}, a kind of {kind}", "a close view of the {kind} {}")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def fine(kind: str) -> tuple[str, ...]:
    """Templates for kinds of one thing."""
    return tuple(template.replace("{kind}", kind) for template in FINE)


SETS: dict[str, PromptSet] = {
    "name/1": PromptSet(("{}",)),
    "photo/1": PromptSet(PHOTO),
    "small_photo/1": PromptSet(SMALL),
    "emoji/1": PromptSet(("{}", "an emoji of {}", "a sign for {}")),
    "digit/1": PromptSet(("{}", "the digit {}", "the number {}", "a handwritten {}", "the digit {} by hand"), DIGITS),
    "house_number/1": PromptSet(("{}", "the number {} on a house", "the digit {} on a sign outdoors"), DIGITS),
    "scene/1": PromptSet(("{}", "a picture of a {}", "a view of a {}", "somewhere at a {}", "the inside of a {}")),
    "satellite/1": PromptSet(("{}", "{} from above", "a satellite picture of {}", "an aerial view of {}")),
    "texture/1": PromptSet(("{}", "a {} texture", "a {} surface", "something {}", "a pattern that is {}")),
    "action/1": PromptSet(("{}", "a person doing {}", "someone busy with {}", "a scene of {}")),
    "pet/1": PromptSet(fine("pet")),
    "flower/1": PromptSet(fine("flower")),
    "food/1": PromptSet(fine("food")),
    "car/1": PromptSet(fine("car")),
    "bird/1": PromptSet(fine("bird")),
    "sketch/1": PromptSet(
        ("{}", "a sketch of a {}", "a drawing of a {}", "a line drawing of the {}", "a doodle of a {}")
    ),
}

OPENAI = "openai_imagenet/1"
"""The name of the set that an installed open_clip brings along, see `bigcl.interop.openai_prompts`."""


def prompt_set(name: str, evaluator: str) -> PromptSet:
    """A set by its name. Raises ConfigError for an unknown one, ImportError for one whose package is not there."""
    if name == OPENAI:
        return PromptSet(*imagenet_prompts())
    if name not in SETS:
        raise ConfigError(f"{evaluator}.prompts: unknown set {name!r}; {nearest(name, [*SETS, OPENAI])}")
    return SETS[name]


def readable(name: str) -> str:
    """A class name of a data set as words: without numbers and folders in front, underscores and capitals inside."""
    name = re.sub(r"^(/\w/|\d+\.)", "", name)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ").replace("/", " "))


class ClassPrompts:
    """Names of classes and the prompts that ask for them; what zero-shot evaluators share.

    prompts: a set of `SETS`, or `OPENAI`.  classes: names; a string is a file with one name a line.  templates: instead
        of the set's.  length: of a prompt, in tokens.  query: input of the tower that embeds prompts.
    """

    def __init__(
        self,
        evaluator: str,
        *,
        classes: Sequence[str] | str | None,
        templates: Sequence[str] | None,
        prompts: str,
        length: int,
        query: str,
        batch: int,
        tokenizer: Tokenizer | None,
    ):
        if tokenizer is None:
            raise ConfigError(f"{evaluator}: prompts need a tokenizer; set the section 'tokenizer' of the config")
        asked = prompt_set(prompts, evaluator)
        self.evaluator, self.tokenizer, self.length, self.query, self.batch = evaluator, tokenizer, length, query, batch
        self.templates = asked.templates if templates is None else tuple(templates)
        if not self.templates or not all("{}" in template for template in self.templates):
            raise ConfigError(
                f"{evaluator}.templates: each needs a {{}} in the place of the name, got {list(self.templates)}"
            )
        self.classes = asked.classes if classes is None else classes
        if isinstance(classes, str):
            path = pathlib.Path(classes)
            if not path.is_file():
                raise FileNotFoundError(f"{evaluator}.classes: no file {path}; write it with one name a line")
            self.classes = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def names(self, source: Source, label: str) -> list[str] | None:
        """The names of the classes: given ones, or those that the source knows for a key; None if there are none."""
        if self.classes is not None:
            return list(self.classes)
        known = source.class_names(label) if hasattr(source, "class_names") else None
        return None if known is None else [readable(name) for name in known]

    def resolve(
        self, values: Sequence[Any], source: Source, label: str
    ) -> tuple[list[str], list[Int32[np.ndarray, "_"]]]:
        """Class names, and the classes of each example, whose value is one label, a list of them, or None.

        Raises ConfigError for a label that is none of the classes, numbers without names, and no label at all.
        """
        many = [several(v) for v in values]
        known = [v for each in many for v in each]
        if not known:
            raise ConfigError(f"{self.evaluator}.label: no example of the source has one")
        names = self.names(source, label)
        if names is None and not all(isinstance(v, str) for v in known):
            raise ConfigError(f"{self.evaluator}.classes: the labels are numbers; give the names that they stand for")
        names = sorted(set(known)) if names is None else names
        numbers: dict[Any, int] = {**dict(enumerate(range(len(names)))), **{name: i for i, name in enumerate(names)}}
        for value in known:
            if value not in numbers:
                raise ConfigError(
                    f"{self.evaluator}.classes: an example has the label {value!r}; {nearest(value, names)}"
                )
        return names, [np.array([numbers[v] for v in each], np.int32) for each in many]

    def embed(self, names: Sequence[str], encode: Encode) -> Float32[np.ndarray, "c d"]:
        """For each class the mean, made unit length again, of the embeddings of its name in each template."""
        texts = [template.replace("{}", name) for name in names for template in self.templates]
        each = embed_texts(texts, self.tokenizer, encode, length=self.length, query=self.query, batch=self.batch)
        return unit(each.reshape(len(names), len(self.templates), -1).mean(1))
