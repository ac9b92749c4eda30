"""File servers on the loopback that fail when told to: over HTTP with byte ranges, and over the protocol of S3."""

import collections
import contextlib
import http.server
import pathlib
import re
import socket
import struct
import threading
from collections.abc import Iterator


class Faults:
    """What goes wrong with the requests to come, in order; and what has been asked for.

    plan: for each request in turn "500", "404", "reset" (half of the body, then RST), "short" (half of the body, then
        FIN), "few" (half of what was asked for, as if that were all), "slow" (half of the body, then nothing for a
        while), "drip" (half of the body, then byte by byte, a few of them a second) or "" for a good answer; good ones
        after the last.
    """

    def __init__(self):
        self.plan: collections.deque[str] = collections.deque()
        self.requests: list[str] = []
        self.connections: set[object] = set()
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def next(self, request: str) -> str:
        """Notes a request; what is to happen to it."""
        with self.lock:
            self.requests.append(request)
            return self.plan.popleft() if self.plan else ""

    def body(self, body: bytes, fault: str) -> Iterator[bytes]:
        """What of a body gets through, piece by piece. Raises ConnectionResetError where it is to be reset."""
        half = len(body) // 2 if fault else len(body)
        yield body[:half]
        if fault == "reset":
            raise ConnectionResetError
        if fault == "slow":
            self.closing.wait(20)
        elif fault == "drip":
            for place in range(half, len(body)):
                if self.closing.wait(0.1):
                    break
                yield body[place : place + 1]


def reset(connection: socket.socket) -> None:
    """Ends a connection by RST, not by FIN, as soon as nobody has it open."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def handler(folder: pathlib.Path, faults: Faults) -> type[http.server.BaseHTTPRequestHandler]:
    """Serves the files of a folder, with ranges, ETags and connections that are kept."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet

        def do_GET(self):
            faults.connections.add(self.client_address)
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            fault = faults.next(f"{self.command} {self.path} {span[0] if span else ''}".strip())
            file = folder / self.path.lstrip("/")
            if file.is_dir() and not fault:
                return self.answer(200, "".join(f'<a href="{f.name}">x</a>' for f in sorted(file.iterdir())).encode())
            if not file.is_file() or fault.isdigit():
                return self.answer(int(fault or 404), b"no")
            data = file.read_bytes()
            if not span:
                return self.answer(200, data, fault, ETag=self.tag(data))
            start, stop = int(span[1]), min(int(span[2]) + 1, len(data))
            if start >= len(data):
                return self.answer(416, b"no")
            place = f"bytes {start}-{stop - 1}/{len(data)}"
            return self.answer(206, data[start:stop], fault, **{"Content-Range": place, "ETag": self.tag(data)})

        do_HEAD = do_GET

        @staticmethod
        def tag(data):
            return f'"{hash(data)}"'

        def answer(self, status, body, fault="", **headers):
            if fault == "few":
                body, fault = body[: len(body) // 2], ""
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            self.close_connection = bool(fault)
            try:
                for piece in faults.body(body, fault):
                    self.wfile.write(piece)
                    self.wfile.flush()
            except ConnectionError:
                reset(self.connection)

        def handle(self):
            with contextlib.suppress(OSError, ValueError):
                super().handle()

        def finish(self):
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *arguments):
            pass

    return Handler


@contextlib.contextmanager
def http_server(folder: pathlib.Path):
    """(URL, Faults) of a server of a folder's files."""
    faults = Faults()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(folder, faults))
    server.daemon_threads = True
    with running(server, faults):
        yield f"http://127.0.0.1:{server.server_port}", faults


@contextlib.contextmanager
def s3_server():
    """(endpoint, Faults) of moto's S3, whose GETs of objects fail as planned."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    faults = Faults()
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ, respond):
        if environ["REQUEST_METHOD"] == "GET" and environ.get("HTTP_RANGE"):
            fault = faults.next(f"{environ['PATH_INFO']} {environ['HTTP_RANGE']}")
            if fault == "500":
                respond("500 Internal Server Error", [("Content-Length", "0")])
                return []
            if fault == "503":
                body = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
                respond("503 Slow Down", [("Content-Length", str(len(body))), ("Content-Type", "application/xml")])
                return [body]
            if fault:
                return faults.body(b"".join(moto(environ, respond)), fault)
        return moto(environ, respond)

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments):
            pass

        def connection_dropped(self, error, environ=None):
            reset(self.connection)

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    with running(server, faults):
        yield f"http://127.0.0.1:{server.server_port}", faults


@contextlib.contextmanager
def running(server, faults=None):
    """Serves in a thread, and at the end lets go of requests that faults hold up."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        if faults is not None:
            faults.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
