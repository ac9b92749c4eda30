"""The page, and what it asks for, over HTTP; all from this machine, nothing from elsewhere."""

import base64
import functools
import hashlib
import html
import http.server
import importlib.resources
import io
import json
import urllib.parse
from http import HTTPStatus
from typing import Any

import numpy as np
from PIL import Image

from bigcl.data.sources import BadRecord
from bigcl.data.transforms.image import DecodeImage
from bigcl.registry import ConfigError
from bigcl.search.engine import Engine, Hit

LARGEST = 32 * 2**20
"""Bytes of a picture that is sent."""
SHOWN, MOST = 30, 200
_SIDE = 320


def make_server(engine: Engine, host: str = "127.0.0.1", port: int = 8000) -> http.server.ThreadingHTTPServer:
    """A server that is ready to serve; port 0 takes a free one."""
    return http.server.ThreadingHTTPServer((host, port), functools.partial(Handler, engine, page(engine)))


def page(engine: Engine) -> tuple[bytes, str]:
    """The page in the style of the reports, and the policy that lets it run its own script and nothing else."""
    style = (importlib.resources.files("bigcl.report") / "style.css").read_text(encoding="utf-8")
    folder = importlib.resources.files("bigcl.search")
    script = (folder / "page.js").read_text(encoding="utf-8")
    about = engine.describe()
    text = (folder / "page.html").read_text(encoding="utf-8")
    fields = {
        "style": style + (folder / "page.css").read_text(encoding="utf-8"),
        "script": script,
        "about": html.escape(sentence(about)),
        "attribution": html.escape(about["attribution"] or ""),
        "reads": html.escape(" ".join(about["reads"])),
    }
    for name, value in fields.items():
        text = text.replace(f"{{{{ {name} }}}}", value)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src 'self' blob: data:; "
    )
    return text.encode(), policy + "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def sentence(about: dict[str, Any]) -> str:
    """What is searched in, as a person says it."""
    step = "" if about["step"] in (None, 0) else f", step {about['step']:,}"
    return f"{about['size']:,} items of {about['source']}, by the {about['input']} tower of {about['model']}{step}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request.

    GET /                                 the page
    GET /search?text=...|item=...&count=  the nearest items as JSON
    POST /search?count=                   the same for a picture, the body
    GET /picture/<item>                   its picture
    """

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "bigcl", ""

    def __init__(self, engine: Engine, page: tuple[bytes, str], *args: Any):
        self.engine, self.page = engine, page
        super().__init__(*args)

    def do_GET(self) -> None:
        """The page, a picture, or a search by text or item."""
        url = urllib.parse.urlsplit(self.path)
        fields = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/":
            self.answer(self.page[0], "text/html; charset=utf-8", policy=self.page[1])
        elif url.path.startswith("/picture/"):
            self.picture(url.path.removeprefix("/picture/"))
        elif url.path == "/search" and "item" in fields:
            self.search(fields, lambda count: self.engine.by_item(int(fields["item"]), count))
        elif url.path == "/search":
            self.search(fields, lambda count: self.engine.by_text(fields.get("text", ""), count))
        else:
            self.refuse(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        """A search by picture."""
        url = urllib.parse.urlsplit(self.path)
        length = self.headers.get("Content-Length", "")
        if url.path != "/search" or not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True  # what was sent is not read
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a picture of up to {LARGEST >> 20} MiB is wanted here")
            return
        data = self.rfile.read(int(length))
        fields = dict(urllib.parse.parse_qsl(url.query))
        self.search(fields, lambda count: self.engine.by_picture(data, count))

    def search(self, fields: dict[str, str], find: Any) -> None:
        """Answers with hits."""
        try:
            hits: list[Hit] = find(min(MOST, max(1, int(fields.get("count", SHOWN)))))
        except (ConfigError, IndexError, ValueError) as error:
            self.refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        self.answer(json.dumps([hit._asdict() for hit in hits]).encode(), "application/json")

    def picture(self, item: str) -> None:
        """Answers with the picture of an item, reduced."""
        if not item.isdecimal() or int(item) >= len(self.engine.index):
            self.refuse(HTTPStatus.NOT_FOUND, "no such item")
            return
        try:
            decoded = DecodeImage()(dict(self.engine.example(int(item))), np.random.default_rng(0))
        except (BadRecord, KeyError) as error:
            self.refuse(HTTPStatus.NOT_FOUND, f"no picture: {error}")
            return
        picture = Image.fromarray(decoded["image"])
        picture.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        picture.save(out, "PNG")
        self.answer(out.getvalue(), "image/png", cache="max-age=3600")

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answers with an error."""
        self.answer(json.dumps({"error": reason}).encode(), "application/json", status=status)

    def answer(
        self,
        body: bytes,
        kind: str,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        policy: str = "default-src 'none'",
        cache: str = "no-store",
    ) -> None:
        """Sends an answer."""
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": cache}
        headers |= {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line."""
