"""The page in Gradio. Images and answers of a visitor stay in that visitor's session."""

import contextlib
import html
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from lzn_jax import data, plots
from lzn_jax.demo.answers import NUM_IMAGES, Answers
from lzn_jax.errors import UserError

_BLANK = np.full((280, 280, 3), 255, np.uint8)  # an image to draw on, so that the brush is selected
# Pixels of radius, by channels of an image; pen strokes of digits are wide.
_BRUSHES = {1: 17, 3: 9}
_COLORS: list[str | tuple[str, float]] = [
    *("#000000", "#7f7f7f", "#e5261f", "#f28c1e", "#f7d31e", "#3aa935", "#1f77d0", "#7b3fb5"),
    *("#8a5a2b", "#f4b6c2"),
]
_HEIGHT = 130  # pixels of a single image
_EVERY, _AGE = 60, 600  # seconds: how often files are deleted, and how old they are by then
_CSS = """
.fillable:not(.fill_width) {max-width: 1280px !important}
.grid-container {
    grid-template-columns: repeat(
        auto-fill, minmax(max(48px, calc(100% / var(--grid-cols) - 8px)), 1fr)
    ) !important;
    grid-template-rows: none !important; grid-auto-rows: auto !important;
}
.grid-container .thumbnail-item {aspect-ratio: 1; height: auto}
.grid-wrap.fixed-height {min-height: 0 !important; max-height: none !important}
@media (max-width: 700px) {.choice {max-height: 190px; overflow-y: auto !important}}
#place img {max-width: min(100%, 600px); margin: auto}
.dark #place img {filter: invert(1) hue-rotate(180deg) brightness(1.3)}
"""
_ZONES = (
    "A **zone** is the region of the model's latent space that belongs to one sample: all its "
    "points stand for that sample, in every type of data "
    "([Latent Zoning Networks, arXiv:2509.15591](https://arxiv.org/abs/2509.15591))."
)

# An event of Gradio, as a function that registers what is called.
Event = Callable[..., Any]


def build(answers: Answers, title: str) -> gr.Blocks:
    """The page of a run, with a tab for each kind of answer, which opens with an example."""
    files = (_EVERY, _AGE)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=files) as page:
        gr.Markdown(f"## {title}\n{_ZONES}")
        for number, (name, fill) in enumerate(_tabs(answers)):
            with gr.Tab(name) as tab:
                fill(tab.select if number else page.load)
        if credit := data.attribution(answers.model.config.data):
            gr.Markdown(credit)
    return page


def _tabs(answers: Answers) -> Iterator[tuple[str, Callable[[Event], None]]]:
    """Names of tabs, and the functions that fill them for the event that opens each."""
    if answers.encodes_images:
        yield "Image", partial(_image_tab, answers)
    for source, target in answers.written:
        name = f"{source.capitalize()} to {answers.plural(target)}"
        yield name, partial(_translation_tab, answers, source, target)
    if answers.classes:
        yield "Label to images", partial(_label_tab, answers)
    if answers.encodes_images and answers.inverts_images and answers.test_images is not None:
        yield "Between two images", partial(_between_tab, answers)
    if answers.samples_prior:
        yield "Prior to images", partial(_samples, answers.of_prior, [])


def serve(answers: Answers, title: str, port: int) -> None:
    """Serves the page to this machine until it is interrupted; port 0 is any free one.

    Raises UserError if the port is taken.
    """
    fonts = ["system-ui", "sans-serif"]  # Gradio's own are downloaded
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    page = build(answers, title)
    try:
        page.launch(
            server_name="127.0.0.1", server_port=port or None, share=False, quiet=True,
            ssr_mode=False, prevent_thread_lock=True, footer_links=[], theme=theme, css=_CSS,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"port {port} is taken: choose another by --port=PORT") from error
    print(f"open http://127.0.0.1:{page.server_port} in a browser; Ctrl-C ends", flush=True)
    # Gradio's own end waits for seconds for each open page.
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def _on(event: Event, function: Callable[..., Any], inputs: Any, outputs: Any) -> None:
    """Calls a function on an event, one call at a time and in the order of events.

    Of repeated events during a call, only the last is answered.
    The message of a UserError becomes a warning that leaves the outputs unchanged; an exception
    would mark all of them.
    """

    @wraps(function)  # Gradio passes `SelectData` to a parameter of that type
    def answer(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            message = str(error)
        gr.Warning(html.escape(message[:1].upper() + message[1:]), title="")
        return gr.skip()

    event(
        answer, inputs, outputs, concurrency_id="model", concurrency_limit=1,
        trigger_mode="always_last",
    )  # fmt: skip


def _images(label: str, columns: int, value: Any = None, selected: int | None = None) -> gr.Gallery:
    """Images in at most `columns` columns below a label."""
    gr.Markdown(f"**{label}**")
    return gr.Gallery(
        value, show_label=False, columns=columns, height="auto", format="png", allow_preview=False,
        interactive=False, object_fit="contain", buttons=[], selected_index=selected,
    )  # fmt: skip


def _image_tab(answers: Answers, opens: Event) -> None:
    image, seed = gr.State(None), gr.State(0)
    again = gr.Button("Sample its zone again", render=False)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            sources = _image_sources(answers)
        with gr.Column(scale=6, min_width=320):
            outputs = _about_outputs(answers, again)
    everything = [image, seed, *outputs.values()]

    def about(image: Any, seed: int = 0) -> list[Any]:
        about = answers.about(image, seed)
        _noted((image, about.note))
        values = about._asdict() | {"seen": image} | about.others
        return [image, seed, *(_displayed(values[name]) for name in outputs)]

    def example(image: Any) -> Any:
        return about(answers.test_images[0]) if image is None else gr.skip()

    def sample_again(image: Any, seed: int) -> list[Any]:
        if image is None:
            raise UserError("draw, choose or upload an image first")
        return about(image, seed + 1)

    for event, image_of, inputs in sources:
        _on(event, _then(image_of, about), inputs, everything)
    if "siblings" in outputs:
        _on(again.click, sample_again, [image, seed], everything)
    if answers.test_images is not None:
        _on(opens, example, [image], everything)


def _then(first: Callable[..., Any], second: Callable[[Any], Any]) -> Callable[..., Any]:
    """The second function of what the first returns, with the signature of the first."""
    return wraps(first)(lambda *arguments: second(first(*arguments)))


def _image_sources(answers: Answers) -> list[tuple[Event, Callable[..., Any], Any]]:
    """Sources of images: an event, the function that returns the image, and its inputs."""
    channels = answers.model.config.data.channels
    brush = gr.Brush(_BRUSHES[channels], _COLORS, _COLORS[0])
    if channels == 1:
        brush = gr.Brush(_BRUSHES[channels], _COLORS[:1], _COLORS[0], "fixed")
    gr.Markdown("**Draw an image**")
    with gr.Row():
        with gr.Column(scale=3, min_width=250):
            sketch = gr.Sketchpad(
                _BLANK, show_label=False, brush=brush,
                canvas_size=_BLANK.shape[:2], fixed_canvas=True, layers=False, transforms=(),
                image_mode="RGBA", elem_id="sketch",
            )  # fmt: skip
            sketch.clear(lambda: _BLANK, None, sketch)
        with gr.Column(scale=1, min_width=110):
            run = gr.Button("Run on the drawing", variant="primary")
            file = gr.UploadButton("Upload an image", type="binary")
    sources: list[tuple[Event, Callable[..., Any], Any]] = [
        (run.click, lambda drawing: answers.drawn(_on_white(drawing)), sketch),
        (file.upload, lambda encoded: _noted(answers.read(encoded)), file),
    ]
    if answers.test_images is not None:
        choice = _choice(answers, "Or click on a test image", 6, 0)

        def chosen(event: gr.SelectData) -> Any:
            return answers.test_images[event.index]

        for event in (run.click, file.upload):
            event(lambda: gr.Gallery(selected_index=None), None, choice)
        sources.append((choice.select, chosen, None))
    return sources


def _choice(answers: Answers, label: str, columns: int, selected: int) -> gr.Gallery:
    """Test images to click on."""
    choice = _images(label, columns, list(plots.enlarged(answers.test_images)), selected)
    choice.elem_classes = ["choice"]
    return choice


def _noted(answer: tuple[Any, str]) -> Any:
    """The value of a value and a note; the note becomes a message."""
    value, note = answer
    if note:
        gr.Info(html.escape(note), title="")
    return value


def _displayed(value: Any) -> Any:
    """Images in the size and form of the page; other values unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    return plots.enlarged(value[None])[0] if value.ndim == 3 else list(plots.enlarged(value))


def _on_white(drawing: dict[str, Any]) -> np.ndarray:
    """A drawing's RGB values (h, w, 3) uint8 on a white background."""
    if drawing["composite"] is None:  # it was just cleared
        return _BLANK
    rgba = drawing["composite"].astype(np.float64)
    alpha = rgba[..., 3:] / 255
    return np.rint(alpha * rgba[..., :3] + (1 - alpha) * 255).astype(np.uint8)


def _picture(label: str, elem_id: str, height: int = _HEIGHT) -> gr.Image:
    """An image below a label; Gradio's own labels cover a part of the image."""
    with gr.Column(min_width=120):
        gr.Markdown(f"**{label}**")
        return gr.Image(
            show_label=False, format="png", height=height, interactive=False, buttons=[],
            elem_id=elem_id,
        )  # fmt: skip


def _about_outputs(answers: Answers, again: gr.Button) -> dict[str, Component]:
    """Outputs of the image tab by field of `About`; `again` is rendered below the siblings."""
    outputs: dict[str, Component] = {}
    with gr.Row():
        outputs["seen"] = _picture("Input of the model", "seen")
        if answers.inverts_images:
            outputs["reconstruction"] = _picture("Reconstruction", "reconstruction")
        if answers.classifies:
            with gr.Column(min_width=160):
                gr.Markdown("**Class probabilities**")
                outputs["classes"] = gr.Label(
                    show_label=False, num_top_classes=3, elem_id="classes"
                )
    for name in answers.others:
        label = f"Translation to {name}"
        if answers.shows_images(name):
            outputs[name] = _picture(label, name)
        else:
            outputs[name] = gr.Textbox(label=label, interactive=False, elem_id=name)
    if answers.decodes_images:
        outputs["siblings"] = _images("Other images of its zone", NUM_IMAGES)
        again.render()
    if answers.test_images is not None:
        outputs["neighbours"] = _images("Test images with the nearest latents", NUM_IMAGES)
        outputs["place"] = gr.Plot(show_label=False, format="png", elem_id="place")
    for name in ("siblings", "neighbours"):
        if name in outputs:
            outputs[name].elem_id = name
    return outputs


def _samples(
    make: Callable[..., Any],
    inputs: list[Component],
    opens: Event,
    *events: Event,
    is_images: bool = True,
) -> None:
    """Samples that `make` returns for the inputs and a seed, with a button for the next seed.

    They are made when the tab opens with all inputs filled in, and on the events.
    """
    seed = gr.State(None)
    if is_images:
        outputs: Component = _images("Images", NUM_IMAGES)
    else:
        outputs = gr.Textbox(label="Samples", max_lines=NUM_IMAGES, interactive=False)
    outputs.elem_classes = ["samples"]

    def samples(seed: int, *values: Any) -> tuple[int, Any]:
        made = make(*values, seed)
        shown = _displayed(made) if is_images else "\n".join(dict.fromkeys(map(str, made)))
        return seed, shown

    def first(*values: Any) -> tuple[int, Any]:
        return samples(0, *values)

    def example(seed: int | None, *values: Any) -> Any:
        return first(*values) if seed is None and all(values) else gr.skip()

    def following(seed: int | None, *values: Any) -> tuple[int, Any]:
        return samples(0 if seed is None else seed + 1, *values)

    _on(opens, example, [seed, *inputs], [seed, outputs])
    for event in events:
        _on(event, first, inputs, [seed, outputs])
    _on(gr.Button("Sample again").click, following, [seed, *inputs], [seed, outputs])


def _translation_tab(answers: Answers, source: str, target: str, opens: Event) -> None:
    examples = answers.examples(source)
    with gr.Row(equal_height=True):
        text = gr.Textbox(
            next(iter(examples), None), label=source.capitalize(), max_lines=1, scale=4
        )
        name = f"Translate to {answers.plural(target)}"
        run = gr.Button(name, variant="primary", scale=1, min_width=130)
    if examples:
        gr.Examples(examples, text, label=f"Training {answers.plural(source)}")

    def make(text: str, seed: int) -> Any:
        return _noted(answers.translated(source, target, text, seed))

    is_images = answers.shows_images(target)
    _samples(make, [text], opens, text.submit, run.click, is_images=is_images)


def _label_tab(answers: Answers, opens: Event) -> None:
    label = gr.Dropdown(answers.classes, value=answers.classes[0], label="Label")
    _samples(answers.of_label, [label], opens, label.input)


def _between_tab(answers: Answers, opens: Event) -> None:
    """Both ends are chosen by clicks; the tab opens with the first and the last test image."""
    ends = answers.test_images[0], answers.test_images[-1]
    first, second = (gr.State(end) for end in ends)
    path = gr.State(None)
    with gr.Row():
        galleries = []
        for label, selected in (("From", 0), ("To", len(answers.test_images) - 1)):
            with gr.Column(min_width=300):
                galleries.append(_choice(answers, label, 10, selected))
    slider = gr.Slider(0, 1, value=0.5, step=0.1, label="Position between the two images")
    picture = _picture("Interpolated image", "between", 220)

    def show(path: Any, weight: float) -> Any:
        return plots.enlarged(path[round(weight * (len(path) - 1))][None], 192)[0]

    def between(first: Any, second: Any, weight: float) -> list[Any]:
        path = answers.between(first, second)
        return [first, second, path, show(path, weight)]

    def example(path: Any, *values: Any) -> Any:
        return between(*values) if path is None else gr.skip()

    def moved(path: Any, weight: float) -> Any:
        return gr.skip() if path is None else show(path, weight)

    def choose_first(event: gr.SelectData, second: Any, weight: float) -> list[Any]:
        return between(answers.test_images[event.index], second, weight)

    def choose_second(event: gr.SelectData, first: Any, weight: float) -> list[Any]:
        return between(first, answers.test_images[event.index], weight)

    inputs, outputs = [first, second, slider], [first, second, path, picture]
    _on(opens, example, [path, *inputs], outputs)
    _on(galleries[0].select, choose_first, [second, slider], outputs)
    _on(galleries[1].select, choose_second, [first, slider], outputs)
    _on(slider.release, moved, [path, slider], picture)
