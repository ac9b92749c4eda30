"""The classes and prompts of ImageNet that published zero-shot accuracies were measured with, as open_clip has them."""

import ast
import importlib.util
import pathlib

NAMES, TEMPLATES = "IMAGENET_CLASSNAMES", "OPENAI_IMAGENET_TEMPLATES"


def imagenet_prompts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 80 templates, "{}" standing for the name, and the names of the 1,000 classes in their order (Radford et al.
    2021, 3.1.4), read from an installed open_clip, of which nothing is imported or run. Raises ImportError without it.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ImportError(
            "the prompts and class names of OpenAI come with open_clip: pip install open_clip_torch, or name a file of "
            "classes"
        )
    path = pathlib.Path(spec.origin).with_name("zero_shot_metadata.py")
    found: dict[str, ast.expr] = {}
    if path.is_file():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
    if not {NAMES, TEMPLATES} <= set(found):
        raise ImportError(f"{path}: this open_clip has no {NAMES} and {TEMPLATES} there; open_clip_torch 2 and 3 do")
    templates = found[TEMPLATES]
    assert isinstance(templates, ast.Tuple | ast.List)
    return tuple(map(template, templates.elts)), tuple(ast.literal_eval(found[NAMES]))


def template(function: ast.expr) -> str:
    """The text that `lambda c: f"a photo of {c}."` makes for "{}"."""
    if not isinstance(function, ast.Lambda) or not isinstance(function.body, ast.JoinedStr):
        raise ImportError(f"open_clip: a prompt that is no formatted text: {ast.unparse(function)}")
    parts = function.body.values
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
