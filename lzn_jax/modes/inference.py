"""Modes of the command line that use a trained run.

Figures are named differently from the figures of evaluation during training. Results of an
`--input` are written to a folder of their own.
"""

import logging
from pathlib import Path

import numpy as np

from lzn_jax import data, files, plots
from lzn_jax.data.user_images import thumbnail
from lzn_jax.data_types import DataType, Samples, are_images
from lzn_jax.evaluation import measurements
from lzn_jax.evaluation.samples import draw
from lzn_jax.trained_model import TrainedModel

MAX_LOGGED = 20  # predictions
NUM_SAMPLES = 100  # for configs without evaluation.num_samples
INPUT_FOLDER = "input"  # in the work folder

_log = logging.getLogger(__name__)


def _opened(
    trained: TrainedModel, workdir: Path, samples_from: str | None, *pair: str
) -> tuple[DataType, Samples, np.ndarray | None, list[str], Path]:
    """Type, samples, labels and names of `--input` or of the test set; folder of results.

    The data are `--input` or the test set. Samples are of the source of a pair, by default of the
    main type. Labels are None for `--input`.
    """
    if pair:
        trained.check_pair(*pair)
    kind = trained.space.types[pair[0] if pair else trained.main_type]
    if samples_from is not None:
        samples, names = kind.named(samples_from)
        return kind, samples, None, names, workdir / INPUT_FOLDER
    test = data.load(trained.config.data, "test")
    rows = kind.readable(test)  # texts need tokens
    test = test if len(rows) == len(test.labels) else test.at(rows)
    samples = kind.samples(test)
    return kind, samples, test.labels, kind.names(samples), workdir


def translate(
    trained: TrainedModel, workdir: Path, samples_from: str | None, source: str, target: str
) -> None:
    """Translates the test samples, or `samples_from`. Writes a figure of sources and targets.

    Writes images to translations.npz, and labels and texts to translations.csv.
    """
    kind, samples, _, names, _ = _opened(trained, workdir, samples_from, source, target)
    translated, made = trained.translate(samples, source, target), trained.space.types[target]
    if np.ndim(translated) > 1:
        written = workdir / "translations.npz"
        files.write_arrays(written, **{made.output: translated})
    else:
        indices, written = range(len(translated)), workdir / "translations.csv"
        named = [name or index for name, index in zip(names, indices, strict=True)]
        sources = named if np.ndim(samples) > 1 else samples
        table = zip(indices, sources, translated, strict=True)
        files.write_csv(written, ["index", "source", "target"], table)
        first = zip(names, made.shown(translated[:MAX_LOGGED]), strict=False)
        for index, (name, answer) in enumerate(first):
            _log.info("%s: %s", name or f"test {kind.name} {index}", answer)
        if len(names) > MAX_LOGGED:
            _log.info("... and %d more in %s", len(names) - MAX_LOGGED, written.name)
    path, some = workdir / "figures" / "translations.png", slice(plots.MAX_PAIRS)
    sides = kind.shown(samples[some]), made.shown(translated[some])
    plots.translations(path, *sides, title=f"From {source} to {target}")
    _log.info("%s: %d translations", written, len(names))
    _log.info("%s: from %s to %s", path, source, target)


def evaluate(trained: TrainedModel, workdir: Path) -> None:
    """Evaluates the run; writes summary.json and figures."""
    train, test = data.load_data(trained.config)
    measurements.prepare(trained.space, test)
    results = measurements.evaluate(trained, train, test, workdir)
    files.write_json(workdir / "summary.json", {"step": trained.step, **results})


def sample(trained: TrainedModel, workdir: Path) -> None:
    """Writes `evaluation.num_samples` samples, equally many per class, and a figure."""
    count = trained.config.evaluation.get("num_samples", NUM_SAMPLES)
    samples = trained.sample(count, key=None)
    data_type = trained.space.types[trained.main_type]
    arrays = {data_type.output: samples.images, "labels": samples.labels}
    written = workdir / "samples.npz"
    files.write_arrays(written, **arrays)
    path, shown = workdir / "figures" / "mode_sample.png", data_type.shown(samples.images)
    if are_images(shown):
        names = data.label_names(trained.config.data)
        plots.sample_grid(path, shown, samples.labels, names, "Samples")
    else:
        plots.tasks(path, [("Samples", None, shown[: plots.MAX_PAIRS])])
    _log.info("%s: %d samples", written, count)
    _log.info("%s: the first samples", path)


def reconstruct(trained: TrainedModel, workdir: Path, samples_from: str | None) -> None:
    """Reconstructs the test samples, or `samples_from`, from their own noise.

    Writes a figure and reconstructions.npz with samples and l2 errors, for images in units of
    [-1, 1].
    """
    kind, samples, labels, _, folder = _opened(trained, workdir, samples_from)
    result = trained.reconstruct(samples, labels)
    written = folder / "reconstructions.npz"
    files.write_arrays(written, **result)
    path = folder / "figures" / "mode_reconstruct.png"
    draw(path, kind, samples, result)
    error = result["errors"].mean()
    _log.info("%s: mean l2 error of %d %s: %.4g", written, len(samples), kind.plural, error)
    _log.info("%s: %s and their reconstructions", path, kind.plural)


def interpolate(trained: TrainedModel, workdir: Path, samples_from: str | None) -> None:
    """Interpolates between two samples through latents; writes interpolation.npz and a figure.

    The two samples come from `samples_from`, such as a folder of two images, or are the first test
    samples of different classes. Raises UserError unless there are two.
    """
    kind, samples, labels, _, folder = _opened(trained, workdir, samples_from)
    if labels is not None and len(samples) >= 2:
        others = np.flatnonzero(labels != labels[0])
        rows = np.array([0, others[0] if len(others) > 0 else 1])
        samples, labels = samples[rows], labels[rows]
    result = trained.interpolate(samples, labels)
    files.write_arrays(folder / "interpolation.npz", **result)
    path = folder / "figures" / "interpolation.png"
    ends, between = kind.shown(samples), kind.shown(result[kind.output])
    if are_images(ends):
        title = f"From one {kind.name} to another"
        plots.interpolation(path, ends, between, result["weights"], title)
    else:
        plots.tasks(path, [(f"From {ends[0]} to {ends[1]}", None, between)])
    _log.info("%s: interpolation between two %s", path, kind.plural)


def embed(trained: TrainedModel, workdir: Path, samples_from: str | None) -> None:
    """Writes features of the test samples, or of `samples_from`: embeddings.npz and a figure.

    embeddings.npz contains the main features as `features`, other features by name, and `labels`,
    -1 if unknown.
    """
    kind, samples, labels, _, folder = _opened(trained, workdir, samples_from)
    others = trained.embed(samples)
    features = others.pop(trained.main_feature)
    known = np.full(len(samples), -1, np.int32) if labels is None else labels
    files.write_arrays(folder / "embeddings.npz", features=features, labels=known, **others)
    if len(samples) >= plots.MIN_POINTS:
        path, names = folder / "figures" / "mode_embed.png", data.label_names(trained.config.data)
        plots.tsne(path, features, known, names, f"Features of the {kind.name}s (t-SNE)")
        _log.info("%s: features in two dimensions", path)


def classify(trained: TrainedModel, workdir: Path, samples_from: str | None) -> None:
    """Classifies the test samples, or `samples_from`; writes predictions.csv and a figure.

    Samples far from the training data are marked (see `TrainedModel.are_far`).
    """
    kind, samples, labels, names, folder = _opened(trained, workdir, samples_from)
    classes, probabilities, is_far = trained.classify(samples)
    far = [""] * len(samples) if is_far is None else is_far.tolist()
    class_names = data.label_names(trained.config.data)
    predicted = [class_names[label] for label in classes]
    known = [""] * len(samples) if labels is None else [str(label) for label in labels]
    header = ["index", "label", "prediction", "probability", "file", "class", "far"]
    rounded = [f"{probability:.6f}" for probability in probabilities]
    rows = zip(range(len(samples)), known, classes, rounded, names, predicted, far, strict=True)
    files.write_csv(folder / "predictions.csv", header, rows)
    if samples_from is not None and kind.is_images:
        given = [thumbnail(Path(name).read_bytes()) for name in names[: plots.MAX_PAIRS]]
        path, title = folder / "figures" / "read.png", "Images as given and as read"
        plots.translations(path, [np.asarray(image) for image in given], samples, title, made=False)
    path = folder / "figures" / "predictions.png"
    shown = kind.shown(samples[: plots.sheets.MAX_PREDICTIONS])
    if are_images(shown):
        title = f"{kind.plural.capitalize()} and their predicted classes"
        predictions = classes, probabilities, labels
        plots.predictions(path, shown, *predictions, title, class_names=class_names)
    else:
        plots.translations(path, names, predicted, f"Classes of {kind.output}")
    width = max(map(len, predicted[:MAX_LOGGED]))
    for index, name in list(enumerate(names))[:MAX_LOGGED]:
        mark = ", far from the training data" if far[index] is True else ""
        name = name or f"test {kind.name} {index}"
        percent = 100 * probabilities[index]
        _log.info("%-*s %6.1f %%  %s%s", width, predicted[index], percent, name, mark)
    if len(names) > MAX_LOGGED:
        _log.info("... and %d more in predictions.csv", len(names) - MAX_LOGGED)
    _log.info("%s: %s and their classes", path, kind.output)
    if count := far.count(True):
        message = "%d of %d %s are far from the training data: their classes mean little"
        _log.info(message, count, len(names), kind.plural)
