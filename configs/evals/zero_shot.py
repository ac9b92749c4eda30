"""Zero-shot classification and retrieval on the usual data sets, as far as TensorFlow Datasets has them prepared.

    python -m bigcl.evaluate --checkpoint runs/clip --suite configs/evals/zero_shot.py --out results/
    python -m bigcl.evaluate ... --suite configs/evals/zero_shot.py:data_dir=/data/tfds    # where TFDS keeps its data

The labels of ImageNet are synsets, not words: their names and prompts are those of OpenAI, which open_clip brings
along (pip install open_clip_torch), or `imagenet_classes` is a file with the names of the 1,000 classes, one a line,
in the order of the labels. What is not there is skipped, and the end of results.md says which command prepares
it. The digits of scikit-learn are always there.
"""

from bigcl.config import parse_arg
from configs.evals.common import pictures, text_length

SETS = {  # name in TFDS -> split, prompts
    "imagenet2012": ("validation", "photo/1"),
    "imagenet_v2/matched-frequency": ("test", "photo/1"),
    "imagenet_sketch": ("test", "sketch/1"),
    "cifar10": ("test", "small_photo/1"),
    "cifar100": ("test", "small_photo/1"),
    "mnist": ("test", "digit/1"),
    "svhn_cropped": ("test", "house_number/1"),
    "caltech101": ("test", "photo/1"),
    "oxford_iiit_pet": ("test", "pet/1"),
    "oxford_flowers102": ("test", "flower/1"),
    "food101": ("validation", "food/1"),
    "cars196": ("test", "car/1"),
    "caltech_birds2011": ("test", "bird/1"),
    "sun397": ("test", "scene/1"),
    "places365_small": ("validation", "scene/1"),
    "eurosat": ("train", "satellite/1"),
    "resisc45": ("train", "satellite/1"),
    "dtd": ("test", "texture/1"),
    "stl10": ("test", "small_photo/1"),
}


def get_suite(arg, inputs):
    """Arguments: `data_dir`, where TFDS keeps its data; `imagenet_classes`, a file of names."""
    arg = parse_arg(arg, data_dir="", imagenet_classes="")
    data_dir = arg.data_dir or None
    image, length = {"transforms": pictures(inputs)}, text_length(inputs)
    suite = {
        "digits": {"kind": "zero_shot", "source": {"kind": "digits"}, **image, "prompts": "digit/1", "length": length}
    }
    for name, (split, prompts) in SETS.items():
        source = {"kind": "tfds", "name": name, "split": split, "data_dir": data_dir}
        part = {"kind": "zero_shot", "source": source, **image, "prompts": prompts, "length": length}
        if name.startswith("imagenet"):
            part |= {"classes": arg.imagenet_classes} if arg.imagenet_classes else {"prompts": "openai_imagenet/1"}
        suite[name.partition("/")[0]] = part
    captions = {"kind": "tfds", "name": "coco_captions", "split": "test", "data_dir": data_dir}
    suite["coco_captions"] = {
        "kind": "retrieval",
        "source": captions,
        **image,
        "texts": "captions/text",
        "length": length,
    }
    return suite
