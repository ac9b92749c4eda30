"""A browser without a screen, by chromedriver's own protocol (W3C WebDriver)."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from typing import Any

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
PATIENCE = 120


class Browser:
    """Chromium; the test is skipped where it is not installed."""

    def __init__(self, width: int = 1280, height: int = 900):
        driver, chromium = (
            shutil.which(name) or pytest.skip(f"needs {name}: apt-get install chromium chromium-driver")
            for name in ("chromedriver", "chromium")
        )
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.address = f"http://localhost:{port}"
        self.process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
        options = {"binary": chromium, "args": [*OPTIONS, f"--window-size={width},{height}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.wait(lambda: self.call("GET", "/status")["ready"])
        self.session = f"/session/{self.call('POST', '/session', capabilities={'alwaysMatch': wanted})['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self.call("DELETE", self.session)
        self.process.terminate()
        self.process.wait()

    def call(self, method: str, path: str, **fields: Any) -> Any:
        """One command of the protocol."""
        data = json.dumps(fields).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)["value"]

    def wait(self, holds: Any) -> None:
        """Waits until something holds."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if holds():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE} s")
            time.sleep(0.05)

    def go(self, address: str) -> None:
        """Opens a page."""
        self.call("POST", f"{self.session}/url", url=address)

    def run(self, script: str, *args: Any) -> Any:
        """What a script returns."""
        return self.call("POST", f"{self.session}/execute/sync", script=script, args=list(args))

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def type(self, selector: str, text: str) -> None:
        """Types into an element; into one for files, their path."""
        element = self.call("POST", f"{self.session}/element", using="css selector", value=selector)[ELEMENT]
        self.call("POST", f"{self.session}/element/{element}/value", text=text)

    def resize(self, width: int, height: int) -> None:
        """Makes the page as wide as a phone, or as a desk."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self.call("POST", f"{self.session}/goog/cdp/execute", **command)

    def errors(self) -> list[str]:
        """What the console complained of."""
        return [line["message"] for line in self.call("POST", f"{self.session}/se/log", type="browser")]
