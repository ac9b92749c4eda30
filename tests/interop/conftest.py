"""Processes that the tests start find what `site/sitecustomize.py` declares; so does this one."""

import os
import pathlib
import runpy

SITE = pathlib.Path(__file__).parent / "site"
OPERATORS = runpy.run_path(str(SITE / "sitecustomize.py"))["OPERATORS"]

os.environ["PYTHONPATH"] = os.pathsep.join([str(SITE), os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
