"""Reports of a run, of runs side by side, of a sweep: one self-contained page each, made to be looked at.

    build_report(pathlib.Path("runs/emoji"))      # writes runs/emoji/report.html

The page needs no network and no other file. What has no data is left out.
"""

import pathlib
from collections.abc import Sequence

from bigcl.files import replacing
from bigcl.report.classes import Classes, load_classes, save_classes
from bigcl.report.gallery import Gallery, load_gallery, save_gallery

__all__ = [
    "Classes",
    "Gallery",
    "build_comparison",
    "build_report",
    "build_sweep",
    "load_classes",
    "load_gallery",
    "save_classes",
    "save_gallery",
]


def build_report(workdir: pathlib.Path, gallery: Gallery | None = None, classes: Classes | None = None) -> pathlib.Path:
    """Writes `workdir/report.html` from `config.json` and `metrics.jsonl`, and returns its path.

    Args:
        gallery: what the retrieval evaluator saw; by default `workdir/gallery.npz` if there is one.
        classes: what the zero-shot evaluator said; by default `workdir/classes.npz` if there is one.

    Raises:
        FileNotFoundError: `workdir` has no `config.json`.
        ValueError: one of the files is broken; the message names it.
        ImportError: a package of the `report` extra is missing; the message names both.
    """
    try:
        from bigcl.report.page import render
        from bigcl.report.run import Run

        run, stored = Run.read(workdir), workdir / "gallery.npz"
        if gallery is None and stored.exists():
            gallery = load_gallery(stored)
        if classes is None and (said := workdir / "classes.npz").exists():
            classes = load_classes(said)
        page = render(run, gallery, classes)
    except ModuleNotFoundError as error:
        raise ImportError(f"the report needs {error.name}: pip install 'bigcl[report]'") from error
    target = workdir / "report.html"
    with replacing(target) as partial:
        partial.write_text(page, encoding="utf-8")
    return target


def build_sweep(folder: pathlib.Path) -> pathlib.Path:
    """Writes `folder/report.html` of a sweep, from its `sweep.json` and its members, and returns its path.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `build_report`.
    """
    try:
        from bigcl.report.sweep import build_sweep_report
    except ModuleNotFoundError as error:
        raise ImportError(f"the report needs {error.name}: pip install 'bigcl[report]'") from error
    return build_sweep_report(folder)


def build_comparison(workdirs: Sequence[pathlib.Path], target: pathlib.Path) -> pathlib.Path:
    """Writes the page of several runs side by side, each against the first, and returns its path.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `build_report`.
    """
    try:
        from bigcl.report.compare import render_comparison
        from bigcl.report.run import Run
    except ModuleNotFoundError as error:
        raise ImportError(f"the report needs {error.name}: pip install 'bigcl[report]'") from error
    page = render_comparison([Run.read(workdir) for workdir in workdirs])
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        partial.write_text(page, encoding="utf-8")
    return target
