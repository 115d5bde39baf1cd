"""The page in a real browser, where a visitor draws, types and clicks, and in Gradio's config."""

import asyncio
import collections
import gc
import importlib.util
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small
from PIL import Image

from lzn_jax.demo.__main__ import main
from lzn_jax.demo.answers import NUM_IMAGES

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("visitor", ROOT / "benchmarks" / "page_visitor.py")
visitor = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(visitor)

pytestmark = pytest.mark.filterwarnings("ignore")  # of gradio's imports


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Event loops that gradio left open end here, not in a test whose warnings are errors."""
    yield
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.fixture(scope="module")
def gradio():
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the page is served by gradio: pip install -e '.[demo]'")


@pytest.fixture(scope="module")
def run(gradio, tmp_path_factory):
    config = small.config(ROOT / "configs" / "digits_text.py")
    return small.untrained_run(tmp_path_factory.mktemp("runs") / "captions", config)


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """Address of the page, and the file with what the command logs."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with visitor.served(run, log) as (address, _):
        yield address, log


@pytest.fixture(scope="module")
def browser(gradio):
    if visitor.CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("apt-get install chromium; pip install -e '.[browser]'")
    with visitor.browser() as opened:
        yield opened


@pytest.fixture
def person(browser, server):
    someone = visitor.Person(browser, server[0])
    yield someone
    someone.context.close()


def looks_like_a_page(person, path):
    person.page.screenshot(path=path)
    with Image.open(path) as picture:
        assert len(picture.convert("L").getcolors()) > 100


def test_a_drawing_a_text_a_label_and_a_way_between(person, tmp_path):
    person.draw((0.5, 0), (0.5, 1))
    seen = person.changed(person.seen("seen"), lambda: person.click("Run on the drawing"))
    assert seen.shape == (96, 96, 4)
    middle, border = seen[:, 40:56, 0].mean(), seen[:, [*range(12), *range(84, 96)], 0].mean()
    assert middle > 100 > 20 > border  # a line as high as digits are, bright on dark
    assert person.page.locator(".choice:visible .selected").count() == 0
    person.clear()
    person.draw((0, 0.5), (1, 0.5))
    lying = person.changed(person.seen("seen"), lambda: person.click("Run on the drawing"))
    assert lying[40:56, :, 0].mean() > 100
    for name in ("reconstruction", "siblings", "neighbours", "place"):
        person.seen(name).first.wait_for()
    assert person.page.locator("#classes").inner_text().count("%") == 3
    assert person.page.locator("#text textarea").input_value() is not None
    before = person.seen("siblings").first.get_attribute("src")
    person.changed(person.seen("siblings"), lambda: person.click("Sample its zone again"))
    assert before != person.seen("siblings").first.get_attribute("src")
    looks_like_a_page(person, tmp_path / "image.png")

    person.tab("Text to images")
    made = person.galleries.locator("img")
    box = person.page.get_by_label("Text", exact=True)
    person.changed(made, lambda: person.click("Sample again"))
    box.fill("a bold seven leaning left")
    person.changed(made, lambda: box.press("Enter"))  # with the first seed again
    assert made.count() == 8
    looks_like_a_page(person, tmp_path / "text.png")

    person.tab("Label to images")
    person.changed(made, lambda: person.click("Sample again"))
    assert made.count() == 8

    person.tab("Between two images")
    middle = person.page.locator("#between img").nth(5)
    near = person.changed(middle, lambda: person.choose(2))
    far = person.changed(middle, lambda: person.choose(20, gallery=1))
    assert np.any(near != far)
    looks_like_a_page(person, tmp_path / "between.png")

    person.tab("Prior to images")
    person.changed(made, lambda: person.click("Sample again"))
    assert person.faults == []


@pytest.mark.parametrize(("scheme", "is_inverted"), [("light", False), ("dark", True)])
def test_the_page_opens_with_an_answer_and_fits_a_phone(browser, server, scheme, is_inverted):
    phone = visitor.Person(browser, server[0], width=400, scheme=scheme)
    boxes = [phone.page.locator(f"#{name}").bounding_box() for name in ("classes", "sketch")]
    assert boxes[0]["y"] + boxes[0]["height"] <= min(850, boxes[1]["y"])
    for name in ("seen", "reconstruction", "siblings", "neighbours"):
        phone.seen(name).first.wait_for()
    place = phone.seen("place").first
    assert ("invert" in place.evaluate("e => getComputedStyle(e).filter")) == is_inverted
    assert phone.pixels(place)[0, 0, 3] == 0  # transparent, so that either background is there
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 400
    phone.context.close()


def test_bad_input_gets_a_message_and_the_page_stays_alive(person, server, tmp_path):
    person.click("Run on the drawing")
    person.wait_for_message("Draw something first")
    assert person.messages.all_inner_texts() == ["Draw something first"]
    assert person.page.locator(".error:visible").count() == 0
    upload = person.page.locator("input[type=file]").last
    (tmp_path / "none.png").write_bytes(b"no image")
    upload.set_input_files(tmp_path / "none.png")
    person.wait_for_message("The file none.png: its format is unknown")
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    person.changed(person.seen("seen"), lambda: upload.set_input_files(tmp_path / "large.png"))
    person.wait_for_message("large.png. Your image was cropped to the central square")
    person.click("Run on the drawing")  # which is gone
    assert not person.page.get_by_text("Compiling").first.is_visible()
    person.tab("Text to images")
    box = person.page.get_by_label("Text", exact=True)
    for text, message in (
        ("", "Write a text first"),
        ("   ", "Write a text first"),
        ("ΩΩ", "ΩΩ"),
        ("a bold seven " * 9, "tokens"),
        ("a zebra", "No training sample has: zebra"),
    ):
        box.fill(text)
        box.press("Enter")
        person.wait_for_message(message)
    made = person.galleries.locator("img")
    made.nth(7).wait_for()  # of the last text
    person.changed(made, lambda: person.click("Sample again"))
    assert made.count() == 8
    assert person.page.locator(".error:visible").count() == 0
    assert "Traceback" not in person.page.locator("body").inner_text()
    # A browser that closes while it uploads a drawing makes gradio log an error.
    errors = server[1].read_text().split("Traceback (most recent call last)")[1:]
    assert all("ClientDisconnect" in error for error in errors)
    assert person.faults == []


def test_two_sessions_do_not_mix(person, browser, server):
    other = visitor.Person(browser, server[0])
    own = person.changed(person.seen("seen"), lambda: person.choose(3))
    theirs = other.changed(other.seen("seen"), lambda: other.choose(12))
    assert np.any(own != theirs)
    person.changed(person.seen("siblings"), lambda: person.click("Sample its zone again"))
    np.testing.assert_array_equal(person.pixels(person.seen("seen")), own)
    np.testing.assert_array_equal(other.pixels(other.seen("seen")), theirs)
    other.context.close()


HASTY = (  # the page, whose files are deleted after a second
    "import runpy; from lzn_jax.demo import page; page._EVERY = page._AGE = 1; "
    "runpy.run_module('lzn_jax.demo', run_name='__main__')"
)


def test_files_go_while_the_page_is_there_and_when_it_ends(run, tmp_path, monkeypatch):
    import httpx  # comes with gradio

    def uploaded():
        answer = client.post("/gradio_api/upload", files={"files": ("a.png", b"a drawing")})
        return Path(answer.json()[0])

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    served = visitor.served(run, tmp_path / "log.txt", ("-c", HASTY))
    with served as (address, _), httpx.Client(base_url=address) as client:
        path = uploaded()
        assert path.is_relative_to(temporary)
        deadline = time.monotonic() + 30
        while path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not path.exists()
        assert uploaded().read_bytes() == b"a drawing"
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=nothing"], "nothing is no run"),
        (["--workdir=nothing", "--port=80"], "--port must be"),
        (["--workdir=nothing", "--port=no"], "invalid int value"),
        (["--workdir=nothing", "--share"], "unrecognized arguments: --share"),
        (["--workdir=released/nothing"], "nothing"),
        (["--workdir=no_gradio"], "pip install -e '.[demo]'"),
    ],
)
def test_bad_flags_end_with_one_line(flags, message, monkeypatch, capsys):
    has_gradio = "--workdir=no_gradio" not in flags
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: has_gradio or None)
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_port_that_is_taken(run, capsys):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        command = [sys.executable, "-m", "lzn_jax.demo", f"--workdir={run}", f"--port={port}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"error: port {port} is taken: choose another by --port=PORT\n"


def test_ctrl_c_ends_the_page_at_once_while_it_is_open(run, tmp_path):
    with visitor.served(run, tmp_path / "log.txt") as (address, process):
        place = "127.0.0.1", int(address.rpartition(":")[2])
        with socket.create_connection(place, timeout=60) as visit:
            # Every open page holds this connection.
            visit.sendall(b"GET /gradio_api/heartbeat/a HTTP/1.1\r\nHost: a\r\n\r\n")
            assert visit.recv(100).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGINT)
            # Gradio's own end waits for the connection for five seconds.
            assert process.wait(timeout=1.5) == 0


TABS = {
    "../tests/demo/texts_config": ["Text to labels", "Label to texts"],
    "digits_repr": ["Image"],
    "digits_gen": ["Image", "Between two images", "Prior to images"],
    "digits_joint latent.enabled=False": ["Label to images"],
    "digits_text objective=infonce": ["Image"],
    "digits_joint": ["Image", "Label to images", "Between two images", "Prior to images"],
    "../tests/tones_config": [
        *("Tone to texts", "Tone to labels", "Label to tones", "Label to texts"),
        *("Text to tones", "Text to labels"),
    ],
}


@pytest.fixture
def build(gradio):
    """Function from `Answers` to the page and its blocks by the name of their type."""
    from lzn_jax.demo import page as page_module

    def built(answers):
        page, blocks = page_module.build(answers, "title"), collections.defaultdict(list)
        for block in page.blocks.values():
            blocks[type(block).__name__].append(block)
        return page, blocks

    return built


def opened(page, tab):
    """What a page fills in when it is loaded, or a tab is selected."""
    event = (page._id, "load") if tab is None else (tab._id, "select")
    (function,) = [each for each in page.fns.values() if event in each.targets]
    answer = function.fn(*(component.value for component in function.inputs))
    assert isinstance(answer, dict) or len(answer) == len(function.outputs)
    return answer  # gr.skip() is a dict


@pytest.mark.parametrize("name", TABS)
def test_tabs_are_what_a_run_can_do_and_open_with_an_example(answers_of, build, name):
    page, blocks = build(answers_of(name))
    tabs = {tab.label: tab for tab in blocks["Tab"]}
    assert list(tabs) == TABS[name]
    shown = [opened(page, tab if number else None) for number, tab in enumerate(tabs.values())]
    is_left = [isinstance(answer, dict) for answer in shown]
    assert is_left == [label.startswith("Tone to ") for label in tabs]  # nothing to write
    assert all(value is not None for answer in shown for value in answer)
    if name.endswith("tones_config"):  # what a type shows as images is in galleries
        outputs = [block for block in page.blocks.values() if "samples" in block.elem_classes]
        kinds = [type(output).__name__ for output in outputs]
        assert kinds == ["Textbox", "Textbox", "Gallery", "Textbox", "Gallery", "Textbox"]
        assert {picture.ndim for picture in shown[4][1]} == {3}


def test_a_type_brings_its_components(answers_of, build):
    answers = answers_of("../examples/sounds/config sound.features=8 sound.context_size=16")
    page, blocks = build(answers)
    tabs = {tab.label: tab for tab in blocks["Tab"]}
    players = blocks["Audio"]
    given = [player for player in players if player.value is not None]
    assert (len(given), len(players)) == (2, 2 + 2 * NUM_IMAGES)  # of two tabs each
    for name in ("Label to sounds", "Text to sounds"):
        _, *played = opened(page, tabs[name])
        assert [(rate, sound.shape) for rate, sound in played] == [(8000, (1024,))] * NUM_IMAGES
    value = given[0].preprocess(given[0].data_model(**given[0].value))
    rate, sound = value
    expected, *_ = answers.examples("sound")
    assert rate == expected[0]
    np.testing.assert_array_equal(sound, expected[1])
    (example,) = [f for f in page.fns.values() if (page._id, "load") in f.targets]
    assert example.fn(-1, value)[1] == "\n".join(
        dict.fromkeys(answers.translated("sound", "text", value, 0)[0])
    )


def test_the_canvas_has_the_colours_of_the_data_and_the_main_button_beside_it(
    answers, colours, build
):
    for each, count, mode in ((answers, 1, "fixed"), (colours, 5, "defaults")):
        _, blocks = build(each)
        (canvas,) = blocks["Sketchpad"]
        assert (len(canvas.brush.colors), canvas.brush.color_mode) == (count, mode)
        (button,) = [each for each in blocks["Button"] if each.value == "Run on the drawing"]
        assert button.variant == "primary"
        assert type(canvas.parent.parent).__name__ == "Row"
        assert button.parent.parent is canvas.parent.parent


def test_an_image_is_translated_to_what_is_shown_as_an_image(answers, build, monkeypatch):
    def drawn(self, texts):
        return np.full((len(texts), 2, 2, 1), 7, np.uint8)

    monkeypatch.setattr(type(answers.model.space.types["text"]), "shown", drawn)
    page, blocks = build(answers)
    assert "text" in [each.elem_id for each in blocks["Image"]]
    values = opened(page, None)
    assert any(np.shape(value) == (96, 96, 3) and np.all(value == 7) for value in values)


@pytest.mark.usefixtures("gradio")
def test_a_mistake_in_a_part_is_a_line_of_the_page(monkeypatch):
    from lzn_jax import parts
    from lzn_jax.demo import page

    def shown(samples):
        return samples.pixels

    monkeypatch.setattr(parts, "PARTS", {("type", "own"): parts.Part(shown, {}, None, __file__)})
    answers, warnings = [], []
    monkeypatch.setattr(page.gr, "Warning", lambda text, title: warnings.append(text))
    for function in (shown, len):  # the second is of no part
        page._on(lambda answer, *_, **__: answers.append(answer), function, None, None)
    assert answers[0]([]) == page.gr.skip()
    line = shown.__code__.co_firstlineno + 1
    expected = f"Type &#x27;own&#x27; failed at {__file__}, line {line}: AttributeError: "
    assert warnings[0].startswith(expected)
    with pytest.raises(TypeError):
        answers[1](3)
