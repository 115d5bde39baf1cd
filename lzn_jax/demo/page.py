"""The page: what it asks for and shows. What a person does stays in that person's session."""

import functools
import html
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from lzn_jax import data, plots
from lzn_jax.configuration import UserError
from lzn_jax.demo.answers import NUM_IMAGES, Answers

_BRUSH = 17  # radius in pixels of a drawing of 280: digits are written one of 8 pixels wide
_CANVAS = np.full((280, 280, 3), 255, np.uint8)  # with a ground the brush is the tool at hand
_ROW = 130  # pixels of a row of images
_EVERY, _AGE = 60, 600  # seconds: how often files are deleted, and how old they are by then
_CSS = """
.grid-container {
    grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important;
    grid-template-rows: none !important; grid-auto-rows: auto !important;
}
.grid-container .thumbnail-item {aspect-ratio: 1; height: auto}
.grid-wrap.fixed-height {min-height: 0 !important; max-height: none !important}
"""
_ABOUT_IMAGES = "Draw, choose or bring an image, and see what the model finds in it."


def build(answers: Answers, title: str) -> gr.Blocks:
    """The page of a run, with a tab for each kind of thing that it does."""
    files = (_EVERY, _AGE)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=files) as page:
        gr.Markdown(f"## {title}")
        if answers.reads_images:
            with gr.Tab("Image"):
                _image_tab(answers)
        for source, target in answers.written:
            with gr.Tab(f"{source.capitalize()} to {answers.plural(target)}"):
                _translation_tab(answers, source, target)
        if answers.classes:
            with gr.Tab("Label to images"):
                _label_tab(answers)
        if answers.reads_images and answers.inverts_images and answers.shown is not None:
            with gr.Tab("Between two images"):
                _between_tab(answers)
        if answers.draws_any:
            with gr.Tab("Prior to images"):
                _draws(answers.of_prior, [], "Images of other latents")
        if credit := data.attribution(answers.model.config.data):
            gr.Markdown(credit)
    return page


def serve(answers: Answers, title: str, port: int) -> None:
    """Serves the page to this machine until it is interrupted.

    Raises UserError where the port is taken.
    """
    fonts = ["system-ui", "sans-serif"]  # others would come from the net
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    page = build(answers, title)
    try:
        page.launch(
            server_name="127.0.0.1", server_port=port, share=False, quiet=True, ssr_mode=False,
            prevent_thread_lock=True, footer_links=[], theme=theme, css=_CSS,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"port {port} is taken: choose another by --port=PORT") from error
    print(f"open http://127.0.0.1:{port} in a browser; Ctrl-C ends", flush=True)
    page.block_thread()


def _polite(
    function: Callable[..., Any], then: Callable[[Any], Any] = lambda found: found
) -> Callable[..., Any]:
    """A function, and what is done with what it finds.

    A person's mistake becomes one message and changes nothing: an error would mark every output.
    """

    @functools.wraps(function)
    def answer(*arguments: Any) -> Any:
        try:
            return then(function(*arguments))
        except UserError as error:
            message = str(error)
        gr.Warning(html.escape(message[:1].upper() + message[1:]), title="")
        return gr.skip()

    return answer


def _images(label: str, columns: int, value: Any = None) -> gr.Gallery:
    """Images below a label, as high as they need."""
    gr.Markdown(f"**{label}**")
    return gr.Gallery(
        value, show_label=False, columns=columns, height="auto", format="png", allow_preview=False,
        interactive=False, object_fit="contain", buttons=[],
    )  # fmt: skip


def _choice(answers: Answers, label: str, columns: int) -> gr.Gallery:
    """Test images of which one is clicked on."""
    return _images(label, columns, list(plots.enlarged(answers.shown)))


def _image_tab(answers: Answers) -> None:
    gr.Markdown(_ABOUT_IMAGES)
    image, draw = gr.State(None), gr.State(0)
    again = gr.Button("Other images of its zone", render=False)
    with gr.Row():
        with gr.Column(scale=2):
            sources = _image_sources(answers)
        with gr.Column(scale=3):
            outputs = _about_outputs(answers, again)

    def about(image: Any, draw: int = 0) -> list[Any]:
        about = answers.about(image, draw)
        found = about._asdict() | {"seen": image} | about.others
        return [image, draw, *(_as_shown(found[name]) for name in outputs)]

    def of_another_draw(image: Any, draw: int) -> list[Any]:
        if image is None:
            raise UserError("draw, choose or bring an image first")
        return about(image, draw + 1)

    everything = [image, draw, *outputs.values()]
    for event, image_of, inputs in sources:
        event(_polite(image_of, about), inputs, everything)
    if "siblings" in outputs:
        again.click(_polite(of_another_draw), [image, draw], everything)


def _image_sources(answers: Answers) -> list[tuple[Callable[..., Any], Callable[..., Any], Any]]:
    """Where images come from: an event, what makes the image, and of which inputs."""
    sources: list[tuple[Callable[..., Any], Callable[..., Any], Any]] = []
    if answers.model.config.data.channels == 1:
        sketch = gr.Sketchpad(
            _CANVAS, label="Draw", brush=gr.Brush(_BRUSH, ["#000000"], color_mode="fixed"),
            canvas_size=_CANVAS.shape[:2], fixed_canvas=True, layers=False, transforms=(),
            image_mode="RGBA", elem_id="sketch",
        )  # fmt: skip
        sketch.clear(lambda: _CANVAS, None, sketch)
        ask = gr.Button("What is it?", variant="primary")
        sources.append((ask.click, lambda drawing: answers.drawn(_ink(drawing)), sketch))
    file = gr.UploadButton("An image file of yours", type="binary")
    sources.append((file.upload, lambda encoded: _noted(answers.read(encoded)), file))
    if answers.shown is not None:
        choice = _choice(answers, "Or click on a test image", 6)

        def chosen(event: gr.SelectData) -> Any:
            return answers.shown[event.index]

        sources.append((choice.select, chosen, None))
    return sources


def _noted(answer: tuple[Any, str]) -> Any:
    """An answer whose note, where there is one, becomes a message."""
    value, note = answer
    if note:
        gr.Info(html.escape(note), title="")
    return value


def _as_shown(value: Any) -> Any:
    """Images large enough to be looked at; other values as they are."""
    if not isinstance(value, np.ndarray):
        return value
    return plots.enlarged(value[None])[0] if value.ndim == 3 else list(plots.enlarged(value))


def _ink(drawing: dict[str, Any]) -> np.ndarray:
    """Darkness of a drawing on white, in [0, 1]."""
    if drawing["composite"] is None:  # it was just cleared
        return np.zeros(_CANVAS.shape[:2])
    rgba = drawing["composite"].astype(np.float64) / 255
    return rgba[..., 3] * (1 - rgba[..., :3].mean(axis=-1))


def _picture(label: str) -> gr.Image:
    """An image below a label, which would hide a part of it."""
    with gr.Column(min_width=120):
        gr.Markdown(f"**{label}**")
        return gr.Image(show_label=False, format="png", height=_ROW, interactive=False, buttons=[])


def _about_outputs(answers: Answers, again: gr.Button) -> dict[str, Component]:
    """Where the page shows what a run finds in an image, by field of `About`.

    `again` stands below the images that it draws again.
    """
    outputs: dict[str, Component] = {}
    with gr.Row():
        outputs["seen"] = _picture("The model's input")
        if answers.inverts_images:
            outputs["reconstruction"] = _picture("To noise and back")
        if answers.names_classes:
            outputs["classes"] = gr.Label(label="Class, and its probability", num_top_classes=3)
    for name in answers.others:
        outputs[name] = gr.Textbox(label=f"As a {name}", interactive=False)
    if answers.draws_images:
        outputs["siblings"] = _images("Other images of its zone", NUM_IMAGES)
        again.render()
    if answers.shown is not None:
        outputs["neighbours"] = _images("Test images whose zones are nearest", NUM_IMAGES)
        outputs["place"] = gr.Plot(show_label=False, format="png")
    for name, output in outputs.items():
        output.elem_id = name
    return outputs


def _draws(
    make: Callable[..., Any],
    inputs: list[Component],
    again: str,
    *events: Callable[..., Any],
    is_images: bool = True,
) -> None:
    """Samples that are made of inputs when an event says so, and others of the same ones."""
    draw = gr.State(0)
    made = _images("Images", NUM_IMAGES) if is_images else gr.Textbox(label="Samples", lines=8)

    def shown(value: Any) -> Any:
        return _as_shown(value) if is_images else "\n".join(dict.fromkeys(map(str, value)))

    def first(*values: Any) -> tuple[int, Any]:
        return 0, shown(make(*values, 0))

    def other(draw: int, *values: Any) -> tuple[int, Any]:
        return draw + 1, shown(make(*values, draw + 1))

    for event in events:
        event(_polite(first), inputs, [draw, made])
    button = gr.Button(again)
    button.click(_polite(other), [draw, *inputs], [draw, made])


def _translation_tab(answers: Answers, source: str, target: str) -> None:
    examples = answers.examples(source)
    text = gr.Textbox(
        label=source.capitalize(), placeholder=next(iter(examples), ""), submit_btn=True
    )
    if examples:
        gr.Examples(examples, text, label=f"Training {answers.plural(source)}")

    def make(text: str, draw: int) -> Any:
        return _noted(answers.translated(source, target, text, draw))

    is_images = answers.draws_images and target == answers.model.main_type
    again = f"Other {answers.plural(target)} of the {source}"
    _draws(make, [text], again, text.submit, is_images=is_images)


def _label_tab(answers: Answers) -> None:
    label = gr.Dropdown(answers.classes, value=answers.classes[0], label="Label")
    _draws(answers.of_label, [label], "Other images of the label", label.input)


def _between_tab(answers: Answers) -> None:
    first, second, path = gr.State(None), gr.State(None), gr.State(None)
    ends = []
    with gr.Row():
        for label in ("From", "To"):
            with gr.Column():
                ends.append(_choice(answers, label, 10))
    slider = gr.Slider(0, 1, value=0.5, step=0.1, label="From the first to the second")
    picture = gr.Image(
        label="Between", format="png", height=220, interactive=False, buttons=[], elem_id="between"
    )

    def show(path: Any, weight: float) -> Any:
        if path is None:
            raise UserError("click on an image to go from and on one to go to")
        return plots.enlarged(path[round(weight * (len(path) - 1))][None], 192)[0]

    def between(first: Any, second: Any, weight: float) -> list[Any]:
        path = None if first is None or second is None else answers.between(first, second)
        return [first, second, path, None if path is None else show(path, weight)]

    def choose_first(event: gr.SelectData, second: Any, weight: float) -> list[Any]:
        return between(answers.shown[event.index], second, weight)

    def choose_second(event: gr.SelectData, first: Any, weight: float) -> list[Any]:
        return between(first, answers.shown[event.index], weight)

    outputs = [first, second, path, picture]
    ends[0].select(choose_first, [second, slider], outputs)
    ends[1].select(choose_second, [first, slider], outputs)
    slider.release(_polite(show), [path, slider], picture)
