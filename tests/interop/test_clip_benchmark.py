"""The same weights by CLIP_benchmark's own code in open_clip, and by bigcl: the same numbers."""

import io
import json

import pytest
from PIL import Image

for package in ("torch", "open_clip", "clip_benchmark"):
    pytest.importorskip(package, reason=f"evaluates with {package}: pip install '.[interop-test]'")

import open_clip  # noqa: E402
import torch  # noqa: E402
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval  # noqa: E402

from bigcl import registry  # noqa: E402
from bigcl.evals.prompts import SETS  # noqa: E402
from bigcl.evaluate import suite  # noqa: E402
from bigcl.export import export  # noqa: E402
from bigcl.interop.model import load  # noqa: E402
from bigcl.interop.openai_prompts import imagenet_prompts  # noqa: E402

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3
SUITE = """
def get_suite(arg, inputs):
    import json
    return json.loads(arg)
"""


class Pictures(torch.utils.data.Dataset):
    """A source of bigcl as CLIP_benchmark reads one: pictures as open_clip prepares them, with a target."""

    def __init__(self, source, preprocess, target, classes=()):
        self.source, self.preprocess, self.target, self.classes = source, preprocess, target, list(classes)
        self.rows = [i for i in range(len(source)) if target(source[i]) is not None]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        example = self.source[self.rows[index]]
        image = example["image"]
        picture = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else Image.fromarray(image)
        return self.preprocess(picture.convert("RGB")), self.target(example)


def test_imagenet_by_the_names_and_prompts_of_openai():
    templates, names = imagenet_prompts()
    assert list(names) == list(open_clip.IMAGENET_CLASSNAMES) and len(names) == 1000
    for name in ("tench", "maillot", "{}"):
        assert [t.replace("{}", name) for t in templates] == [t(name) for t in open_clip.OPENAI_IMAGENET_TEMPLATES]


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """Model, preprocessing and tokenizer in open_clip."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(workdir, "open_clip", folder, verify=False)
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def evaluated(workdir, folder, part):
    """The numbers of one evaluator, by the command's own way from a run's folder to a table."""
    file = folder / "suite.py"
    file.write_text(SUITE)
    suite(workdir, None, f"{file}:{json.dumps({'one': part})}", folder / "results")
    return json.loads((folder / "results/results.json").read_text())["results"]["one"]


def accuracy(output, target, topk):
    """In the place of CLIP_benchmark's own, which makes numbers of arrays of one element; NumPy no longer does."""
    best = output.topk(max(topk)).indices
    return [(best[:, :k] == target[:, None]).any(1).float().mean().item() for k in topk]


def loader(data, collate=None):
    return torch.utils.data.DataLoader(data, batch_size=64, collate_fn=collate)


@pytest.mark.parametrize(
    ("kind", "label", "prompts"),
    [("emoji", "group", "emoji/1"), ("digits", "label", "digit/1")],
    ids=["emoji", "digits"],
)
def test_zero_shot(kind, label, prompts, workdir, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(zeroshot_classification, "accuracy", accuracy)
    model, preprocess, tokenizer = exported
    source = registry.build("source", {"kind": kind, "split": "test"})
    part = {"kind": "zero_shot", "source": {"kind": kind, "split": "test"}, "label": label, "prompts": prompts}
    found = evaluated(workdir, tmp_path, {**part, "length": 17, "transforms": load(workdir).preprocessing.transforms()})
    values = {source[i][label] for i in range(len(source))} - {None}
    names = SETS[prompts].classes or sorted(values)
    target = (lambda e: e[label]) if SETS[prompts].classes else lambda e: e[label] and names.index(e[label])
    templates = [t.replace("{}", "{c}") for t in SETS[prompts].templates]
    data = loader(Pictures(source, preprocess, target, names))
    wanted = zeroshot_classification.evaluate(model, data, tokenizer, names, templates, "cpu", amp=False)
    assert found["examples"] == len(data.dataset) and len(names) > 5 and 0 < wanted["acc1"] < wanted["acc5"] < 1
    ours = {"acc1": "accuracy@1", "acc5": "accuracy@5", "mean_per_class_recall": "mean_per_class_accuracy"}
    assert wanted == pytest.approx({k: found[v] for k, v in ours.items()}, abs=TOLERANCE)


def test_retrieval(workdir, exported, tmp_path):
    model, preprocess, tokenizer = exported
    part = {"kind": "retrieval", "source": {"kind": "emoji", "split": "test"}, "ks": [1, 5, 10]}
    tokenize = {"kind": "tokenize", "length": 17}
    transforms = [*load(workdir).preprocessing.transforms(), tokenize]
    found = evaluated(workdir, tmp_path, {**part, "transforms": transforms})

    def collate(rows):
        return torch.stack([picture for picture, _ in rows]), [[text] for _, text in rows]

    source = registry.build("source", part["source"])
    data = loader(Pictures(source, preprocess, lambda example: example["text"]), collate)
    wanted = zeroshot_retrieval.evaluate(model, data, tokenizer, "cpu", amp=False, recall_k_list=part["ks"])
    ways = {"image_retrieval": "text_to_image", "text_retrieval": "image_to_text"}
    ours = {f"{theirs}_recall@{k}": found[f"{way}/recall@{k}"] for theirs, way in ways.items() for k in part["ks"]}
    assert wanted == pytest.approx(ours, abs=TOLERANCE) and 0 < wanted["image_retrieval_recall@10"] < 1
