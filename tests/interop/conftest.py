"""Processes that the tests start find what `site/sitecustomize.py` declares; so does this one."""

import os
import pathlib
import runpy

import pytest

SITE = pathlib.Path(__file__).parent / "site"
OPERATORS = runpy.run_path(str(SITE / "sitecustomize.py"))["OPERATORS"]

os.environ["PYTHONPATH"] = os.pathsep.join([str(SITE), os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A short run of the quick start whose image tower open_clip can express."""
    from bigcl.config import plain
    from bigcl.train import run
    from configs.emoji import get_config

    config = plain(get_config("smoke"))
    config["train"].update(steps=16)
    config["task"]["towers"]["image"]["registers"] = 1
    folder = tmp_path_factory.mktemp("run")
    run(config, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A trained one of 300 ids."""
    from bigcl.data.tokenizers import TokenizersJSON, train_bpe
    from tests.interop.models import TEXTS

    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    trained = train_bpe(iter(TEXTS), 300)
    trained.save(str(path))
    return TokenizersJSON(str(path))
