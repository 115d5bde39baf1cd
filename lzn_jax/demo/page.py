"""The page in Gradio. Images and answers of a visitor stay in that visitor's session."""

import contextlib
import html
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component
from PIL import Image

from lzn_jax import data, parts, plots
from lzn_jax.demo.answers import NUM_IMAGES, Answers
from lzn_jax.errors import UserError

_BLANK = np.full((280, 280, 3), 255, np.uint8)  # an image to draw on, so that the brush is selected
_BLANKS = itertools.count()
_EVERY, _AGE = 60, 600  # interval and age in seconds at which files are deleted
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
@media (max-width: 700px) {
    .choice {max-height: 190px; overflow-y: auto !important}
    #image-tab > .column {display: contents}
    #image-tab > .column > * {flex: 1 1 100%}
    #image-tab .answer {order: -1}
}
.toast-wrap {inset: auto auto 16px 16px !important}
#place img {max-width: min(100%, 600px); margin: auto}
.dark #place img {filter: invert(1) hue-rotate(180deg) brightness(1.3)}
"""
_ZONES = (
    "A **zone** is the region of the model's latent space that belongs to one sample: all its "
    "points stand for that sample, in every type of data "
    "([Latent Zoning Networks, arXiv:2509.15591](https://arxiv.org/abs/2509.15591))."
)

_WAITING = "*Compiling, for about half a minute before the first answer.*"

# An event of Gradio, as a function that registers what is called.
Event = Callable[..., object]

_IN_A_ROW = ("seen", "reconstruction", "classes")
_LABELS = {  # names of views that are no translations
    "seen": "Input of the model",
    "reconstruction": "Reconstruction",
    "classes": "Class probabilities",
    "siblings": "Other images of its zone",
    "neighbours": "Test images with the nearest latents",
}


def build(answers: Answers, title: str) -> gr.Blocks:
    """The page of a run. Each kind of answer is a tab that opens with an example."""
    files = (_EVERY, _AGE)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=files) as page:
        gr.Markdown(f"## {title}\n{_ZONES}")
        for number, (name, fill) in enumerate(_tabs(answers)):
            with gr.Tab(name) as tab:
                waiting = gr.Markdown(_WAITING)
                seed = fill(tab.select if number else page.load)
                seed.change(lambda: gr.Markdown(visible=False), None, waiting)
        if credit := data.attribution(answers.model.config.data):
            gr.Markdown(credit)
    return page


def _tabs(answers: Answers) -> Iterator[tuple[str, Callable[[Event], gr.State]]]:
    types = answers.model.space.types
    if answers.encodes_images:
        yield "Image", partial(_image_tab, answers)
    for source, target in answers.written:
        name = f"{source.capitalize()} to {types[target].plural}"
        yield name, partial(_translation_tab, answers, source, target)
    if answers.classes:
        yield "Label to images", partial(_label_tab, answers)
    if answers.encodes_images and answers.inverts_images and answers.test_images is not None:
        yield "Between two images", partial(_between_tab, answers)
    if answers.samples_prior:
        yield "Prior to images", partial(_samples, answers.of_prior, [], [])


def serve(answers: Answers, title: str, port: int) -> None:
    """Serves the page to this machine until it is interrupted. Port 0 is any free port.

    Raises UserError if the port is taken.
    """
    fonts = ["system-ui", "sans-serif"]  # Gradio's own fonts are downloaded
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


def _on(event: Event, function: Callable[..., object], inputs: object, outputs: object) -> None:
    """Calls a function on an event. A UserError becomes a warning and changes no output."""

    @wraps(function)  # Gradio passes `SelectData` to a parameter of that type
    def answer(*arguments: object) -> object:
        try:
            return parts.mistakes()(function)(*arguments)
        except UserError as error:
            message = str(error)
        gr.Warning(html.escape(message[:1].upper() + message[1:]), title="")
        return gr.skip()

    event(
        answer, inputs, outputs, concurrency_id="model", concurrency_limit=1,
        trigger_mode="always_last",
    )  # fmt: skip


def _answered(
    make: Callable[..., Sequence[object]],
    values: Sequence[Component],
    outputs: Sequence[Component],
    opens: Event,
    events: Sequence[Event],
    again: Event | None = None,
) -> gr.State:
    """Fills outputs with `make(*values, seed)` on opening, on events and anew on `again`.

    Returns the seed, which changes with the first answer.
    """
    seed = gr.State(-1)  # of nothing yet

    def answer(number: int, *given: object) -> list[object]:
        return [number, *map(_displayed, make(*given, number))]

    def example(number: int, *given: object) -> object:
        with contextlib.suppress(UserError):
            if number < 0:
                return answer(0, *given)
        return gr.skip()

    def following(number: int, *given: object) -> object:
        return answer(number + 1, *given)

    _on(opens, example, [seed, *values], [seed, *outputs])
    for event in events:
        _on(event, partial(answer, 0), values, [seed, *outputs])
    if again is not None:
        _on(again, following, [seed, *values], [seed, *outputs])
    return seed


def _samples(
    make: Callable[..., Any],
    values: Sequence[Component],
    events: Sequence[Event],
    opens: Event,
    is_images: bool = True,
    component: Callable[[], Component] | None = None,
) -> gr.State:
    look: Any = {"elem_classes": ["samples"]}
    if component is not None:
        with gr.Row(**look):
            outputs: list[Component] = [component() for _ in range(NUM_IMAGES)]
    elif is_images:
        outputs = [_images("Images", NUM_IMAGES, **look)]
    else:
        outputs = [gr.Textbox(label="Samples", max_lines=NUM_IMAGES, interactive=False, **look)]

    def made(*given: object) -> list[object]:
        samples = make(*given)
        if component is not None:
            return list(samples)
        return [samples if is_images else "\n".join(dict.fromkeys(map(str, samples)))]

    return _answered(made, values, outputs, opens, events, gr.Button("Sample again").click)


def _translation_tab(answers: Answers, source: str, target: str, opens: Event) -> gr.State:
    examples, types = answers.examples(source), answers.model.space.types
    textbox = partial(gr.Textbox, label=source.capitalize(), max_lines=1, scale=4)
    name, component = f"Translate to {types[target].plural}", types[source].input_component
    with gr.Row(equal_height=component is None):
        given = (component or textbox)(next(iter(examples), None))
        run = gr.Button(name, variant="primary", scale=1, min_width=130)
    if examples:
        rows = [[example] for example in examples]
        numbers = [f"{source} {number}" for number in range(len(rows))] if component else None
        label = f"Training {types[source].plural}"
        gr.Examples(rows, given, label=label, example_labels=numbers)

    def make(value: object, seed: int) -> object:
        return _noted(*answers.translated(source, target, value, seed))

    events = [run.click, *([given.submit] if hasattr(given, "submit") else [])]
    output = types[target].output_component
    return _samples(make, [given], events, opens, answers.shows_images(target), output)


def _label_tab(answers: Answers, opens: Event) -> gr.State:
    label = gr.Dropdown(answers.classes, value=answers.classes[0], label="Label")
    return _samples(answers.of_label, [label], [label.input], opens)


def _between_tab(answers: Answers, opens: Event) -> gr.State:
    ends = [gr.State(answers.test_images[place]) for place in (0, -1)]
    with gr.Row():
        for label, selected, end in zip(("From", "To"), (0, -1), ends, strict=True):
            with gr.Column(min_width=300):
                _choice(answers, label, 10, selected % len(answers.test_images), end)
    path = _images("Interpolated images", 11, elem_id="between")
    changes = [end.change for end in ends]
    return _answered(lambda *given: [answers.between(*given[:2])], ends, [path], opens, changes)


def _image_tab(answers: Answers, opens: Event) -> gr.State:
    image = gr.State(None if answers.test_images is None else answers.test_images[0])
    again = gr.Button("Sample its zone again", render=False)
    with gr.Row(elem_id="image-tab"):
        with gr.Column(scale=5, min_width=320):
            _image_sources(answers, image)
        with gr.Column(scale=6, min_width=320):
            with gr.Row(elem_classes=["answer"]):
                outputs = [_view(answers, name) for name in answers.views if name in _IN_A_ROW]
            for name in list(answers.views)[len(outputs) :]:
                outputs.append(_view(answers, name))
                if name == "siblings":
                    again.render()

    def make(image: np.ndarray | None, seed: int) -> list[object]:
        if image is None:
            raise UserError("draw, choose or upload an image first")
        return [view(image, seed) for view in answers.views.values()]

    click = again.click if "siblings" in answers.views else None
    return _answered(make, [image], outputs, opens, [image.change], click)


def _image_sources(answers: Answers, image: gr.State) -> None:
    """Canvas, upload and test images. Each one sets the image."""
    grey = answers.model.config.data.channels == 1
    gr.Markdown("**Draw an image**")
    with gr.Row():
        with gr.Column(scale=3, min_width=250):
            # Radius in pixels, since pen strokes of digits are wide.
            brush = gr.Brush(17, ["#000000"], color_mode="fixed") if grey else gr.Brush(9)
            sketch = gr.Sketchpad(
                _BLANK, show_label=False, brush=brush,
                canvas_size=_BLANK.shape[:2], fixed_canvas=True, layers=False, transforms=(),
                image_mode="RGBA", type="pil", elem_id="sketch",
            )  # fmt: skip
            sketch.clear(_blank, None, sketch)
        with gr.Column(scale=1, min_width=110):
            run = gr.Button("Run on the drawing", variant="primary")
            file = gr.UploadButton("Upload an image", type="filepath")
            note = gr.Markdown()

    def drawn(drawing: dict[str, Image.Image]) -> object:
        canvas = Image.fromarray(_BLANK).convert("RGBA")
        if drawing["composite"] is not None:  # as when it was just cleared
            canvas.alpha_composite(drawing["composite"])
        return answers.drawn(np.asarray(canvas.convert("RGB")))

    def uploaded(path: str) -> tuple[object, ...]:
        name = html.escape(Path(path).name)
        try:
            read, changes = answers.read(Path(path).read_bytes())
        except UserError as error:
            raise UserError(f"the file {Path(path).name}: {error}") from error
        return read, f"{name}. {changes}"

    _on(run.click, drawn, sketch, image)
    _on(file.upload, uploaded, file, [image, note])
    # Only what has been read takes the drawing away.
    note.change(lambda text: _blank() if text else gr.skip(), note, sketch, show_progress="hidden")
    run.click(lambda: "", None, note)
    if answers.test_images is not None:
        choice = _choice(answers, "Or click on a test image", 6, 0, image)
        choice.select(lambda: "", None, note)
        for event in (run.click, file.upload):
            event(lambda: gr.Gallery(selected_index=None), None, choice)


def _blank() -> np.ndarray:
    """A blank canvas, in a file of its own: Gradio would overwrite a file that it is serving."""
    opacity = np.full((*_BLANK.shape[:2], 1), 255, np.uint8)
    opacity[0, 0] = next(_BLANKS) % 256  # white over white is white
    return np.concatenate([_BLANK, opacity], axis=-1)


def _choice(answers: Answers, label: str, columns: int, selected: int, image: gr.State) -> Any:
    """Test images to click on, which set the image."""
    tiles = list(plots.enlarged(answers.test_images))
    choice = _images(label, columns, value=tiles, selected_index=selected, elem_classes=["choice"])

    def chosen(event: gr.SelectData) -> object:
        return answers.test_images[event.index]

    _on(choice.select, chosen, None, image)
    return choice


def _view(answers: Answers, name: str) -> Component:
    label = _LABELS.get(name, f"Translation to {name}")
    if name in ("siblings", "neighbours"):
        return _images(label, NUM_IMAGES, elem_id=name)
    if name == "place":
        return gr.Plot(show_label=False, format="png", elem_id=name)
    if name == "doubt":  # a line under the row of the classes
        return gr.Markdown(elem_id=name)
    if name == "classes":
        with gr.Column(min_width=160):
            gr.Markdown(f"**{label}**")
            return gr.Label(show_label=False, num_top_classes=3, elem_id=name)
    if name not in _LABELS:  # a translation
        if (component := answers.model.space.types[name].output_component) is not None:
            return component()
        if not answers.shows_images(name):
            return gr.Textbox(label=label, interactive=False, elem_id=name)
    with gr.Column(min_width=120):
        gr.Markdown(f"**{label}**")  # Gradio's own labels cover part of the image
        return gr.Image(
            show_label=False, format="png", height=130, interactive=False, buttons=[], elem_id=name
        )


def _images(label: str, columns: int, **options: Any) -> gr.Gallery:
    """Images in at most `columns` columns below a label."""
    gr.Markdown(f"**{label}**")
    return gr.Gallery(
        show_label=False, columns=columns, height="auto", format="png", allow_preview=False,
        interactive=False, object_fit="contain", buttons=[], **options,
    )  # fmt: skip


def _noted(value: object, note: str) -> Any:
    """The value. A note becomes a message."""
    if note:
        gr.Info(html.escape(note), title="")
    return value


def _displayed(value: object) -> object:
    """Images in the size and form of the page. Other values are unchanged."""
    if not isinstance(value, np.ndarray) or value.ndim < 3:
        return value
    return plots.enlarged(value[None])[0] if value.ndim == 3 else list(plots.enlarged(value))
