"""A visitor of the page of `python -m lzn_jax.demo`, who draws, types and clicks in a browser."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SLOW = 60_000  # milliseconds to wait for an answer, whose first one includes compilation


@contextmanager
def served(workdir: Path, log: Path) -> Iterator[str]:
    """Address of the page of a run, served by the command line; its stderr is written to `log`."""
    command = [sys.executable, "-m", "lzn_jax.demo", f"--workdir={workdir}", "--port=0"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, log.read_text()
        try:
            yield found[0]
        finally:
            process.terminate()
            process.wait()


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Person:
    """A visitor with a session of their own, once the first tab shows its example.

    Attributes:
      faults: errors of the page and its requests to other machines.
    """

    def __init__(
        self, browser: Any, address: str, width: int = 1400, scheme: str = "light"
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 1300}, color_scheme=scheme
        )
        self.page, self.faults = self.context.new_page(), []
        self.page.set_default_timeout(SLOW)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._check_request)
        self.page.goto(address)
        self._wait_for_example()

    def _wait_for_example(self) -> None:
        filled = """() => {
            const images = [...document.querySelectorAll('#place, #between, .samples')]
                .filter(e => e.offsetParent !== null);
            return images.some(e => e.querySelector('img')
                || (e.querySelector('textarea') || {}).value);
        }"""
        self.page.wait_for_function(filled)

    def _check_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.faults.append(f"requests {request.url}")

    def click(self, name: str, role: str = "button") -> None:
        self.page.get_by_role(role, name=name, exact=True).click()

    def tab(self, name: str) -> None:
        self.click(name, "tab")
        self._wait_for_example()

    def draw(self, *points: tuple[float, float]) -> None:
        """Draws a line through points, in shares of the canvas from its upper left.

        No tool is selected before, since the brush is at first.
        """
        box = self.page.locator("#sketch canvas").first.bounding_box()
        side = min(box["width"], box["height"]) * 0.7
        left, top = (box[k] + (box[n] - side) / 2 for k, n in (("x", "width"), ("y", "height")))
        (x, y), *others = points
        self.page.mouse.move(left + x * side, top + y * side)
        self.page.mouse.down()
        for x, y in others:
            self.page.mouse.move(left + x * side, top + y * side, steps=10)
        self.page.mouse.up()
        self.page.wait_for_timeout(300)  # the canvas lags behind

    def clear(self) -> None:
        with self.page.expect_response("**/queue/join*"):
            self.page.locator("#sketch button[aria-label*=Clear]").click()
        self.page.locator("#sketch button.highlight[aria-label=Brush]").wait_for()

    def choose(self, place: int, gallery: int = 0) -> None:
        self.galleries.nth(gallery).locator("button").nth(place).click()

    @property
    def galleries(self) -> Any:
        return self.page.locator(".grid-container:visible")

    def changed(self, locator: Any, act: Callable[[], Any]) -> np.ndarray:
        old = locator.first.get_attribute("src") if locator.count() else None
        act()
        script = "([e, old]) => e.src && e.src !== old && e.complete"
        locator.first.wait_for()
        self.page.wait_for_function(script, arg=[locator.first.element_handle(), old])
        return self.pixels(locator)

    def pixels(self, locator: Any) -> np.ndarray:
        read = """e => {
            const c = document.createElement('canvas');
            [c.width, c.height] = [e.naturalWidth, e.naturalHeight];
            const d = c.getContext('2d'); d.drawImage(e, 0, 0);
            return [c.height, c.width, ...d.getImageData(0, 0, c.width, c.height).data];
        }"""
        height, width, *values = locator.first.evaluate(read)
        return np.array(values, np.uint8).reshape(height, width, 4)

    @property
    def messages(self) -> Any:
        return self.page.get_by_test_id("toast-text")

    def wait_for_message(self, message: str) -> None:
        self.page.get_by_text(re.compile(message)).first.wait_for()

    def seen(self, name: str) -> Any:
        return self.page.locator(f"#{name} img")
