"""The report of a run: one self-contained page, made to be looked at.

    build_report(pathlib.Path("runs/emoji"))      # writes runs/emoji/report.html

The page needs no network and no other file. What has no data is left out.
"""

from bigcl.report.gallery import Gallery, load_gallery, save_gallery
from bigcl.report.page import build_report

__all__ = ["Gallery", "build_report", "load_gallery", "save_gallery"]
