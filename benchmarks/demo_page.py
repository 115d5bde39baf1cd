"""Measures how long the page of a run of digits_text takes to answer, and takes a screenshot.

    python benchmarks/demo_page.py [--workdir=results/digits_text] --picture=docs/demo.png

Opens the page in chromium (extras `demo` and `browser`), draws a seven, types a text, selects a
label and interpolates between two images. Prints the seconds from the command to the first answer,
and those from a click to the changed image: the first, and the median of the others. Without
`--workdir`, the run is the model of the package.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_visitor
import shared

SEVEN = ((0.25, 0.05), (0.75, 0.05), (0.45, 0.95))  # with a bar, as in this data set
BAR = ((0.35, 0.5), (0.85, 0.5))
TEXT = "a bold seven leaning left"


def timed(
    person: page_visitor.Person, what: str, picture: Any, act: Callable[[int], Any], times: int
) -> None:
    """Prints how long `act`, called with a number, takes to change an image."""
    seconds = []
    for number in range(times):
        start = time.perf_counter()
        person.changed(picture, lambda number=number: act(number))
        seconds.append(time.perf_counter() - start)
    print(f"{what:40s} first {seconds[0]:5.2f} s, then {statistics.median(seconds[1:]):5.2f} s")


def visit(person: page_visitor.Person, picture: Path, times: int) -> None:
    seen, made = person.seen("seen"), person.galleries.locator("img")
    timed(person, "a test image", seen, lambda n: person.choose(3 * n + 1), times)
    person.draw(*SEVEN)
    person.draw(*BAR)
    person.changed(seen, lambda: person.click("Run on the drawing"))
    person.page.wait_for_timeout(1000)  # for the map, the last output
    person.page.screenshot(path=picture, full_page=True)
    siblings, again = person.seen("siblings"), "Sample its zone again"
    timed(person, "other images of its zone", siblings, lambda _: person.click(again), times)
    person.tab("Text to images")
    box = person.page.get_by_label("Text", exact=True)
    box.fill(TEXT)
    person.changed(made, lambda: box.press("Enter"))
    again = "Sample again"
    timed(person, "images of a text", made, lambda _: person.click(again), times)
    person.tab("Label to images")
    timed(person, "images of a label", made, lambda _: person.click(again), times)
    person.tab("Between two images")
    between = person.page.locator("#between img").nth(5)
    timed(person, "between two images", between, lambda n: person.choose(20 + n, 1), times)


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("digits_text"))
    parser.add_argument("--picture", type=Path, default=Path("results/demo.png"))
    parser.add_argument("--times", type=int, default=6)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        page_visitor.served(arguments.workdir, Path(folder) / "log.txt") as (address, _),
        page_visitor.browser() as opened,
    ):
        served = time.perf_counter() - start
        person = page_visitor.Person(opened, address)
        answered = time.perf_counter() - start
        print(f"page after {served:.1f} s, the example's images after {answered:.1f} s")
        visit(person, arguments.picture, arguments.times)


if __name__ == "__main__":
    main()
