"""Tasks of digits_text, each by networks trained for it alone: one space for all is held to them.

    python benchmarks/text_baselines.py --seeds 3
    python benchmarks/text_baselines.py --seeds 1 --folder results/text_baselines_validation \
        --config.data.validation=287 --tasks captioner captioner_0.1 captioner_0.2 captioner_0.4 \
        captioner_0.8

Networks, batches, optimiser, rates and number of updates are the config's, and there are no zones.
`captioner` gives the anchor of an image to the text decoder, `text_to_image` that of a text to the
image decoder, `classifier` that of a digit to a dense layer for each part of a caption. Anchors of
`captioner_0.4` and the like have noise in training. `support_vectors` classifies each part by
pixels; its penalty and width are searched on a fifth of the training images.
`--config.FIELD=VALUE` changes a field.
"""

import functools
import time
from pathlib import Path
from typing import Any

import evidence
import jax
import jax.numpy as jnp
import numpy as np
import optax
import shared
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict
from sklearn.svm import SVC

from lzn_jax import configuration, data, files, models
from lzn_jax import train as train_module
from lzn_jax.data import Examples, digit_captions, digits
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.data_types import Model
from lzn_jax.decoders.flow import FlowDecoder
from lzn_jax.evaluation.samples import as_pixels
from lzn_jax.evaluation.texts import PARTS, DigitCaptions, compared, shares
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import normal_by_index
from lzn_jax.plan import Loss
from lzn_jax.progress import progress
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

METRICS = (
    *(f"image_to_text_{name}" for name in ("exact", *PARTS)),
    *(f"text_to_image_{name}" for name in ("exact", *PARTS)),
    *("parameters", "seconds", "seconds_per_update"),
)


class Measure:
    """How right captions written of test images, and images made of test captions, are."""

    def __init__(self, config: ConfigDict, train: Examples, test: Examples) -> None:
        space = LatentSpace(config, models.built(devices.training_mesh, config.training))
        self.tokenizer = space.encoders["text"].tokenizer
        self._ruler = DigitCaptions(TrainedModel(space, Model({}, {}), 0), train, digits.ruler())
        rows = compared(self.tokenizer, test.texts)
        self.images, texts = test.images[rows], [str(text) for text in test.texts[rows]]
        self.tokens, self._parts = self.tokenizer.encode(texts), digit_captions.parse(texts)

    def written(self, texts: list[str] | np.ndarray) -> evidence.Summary:
        return shares("image_to_text", digit_captions.parse(texts), self._parts)

    def made(self, images: np.ndarray) -> evidence.Summary:
        return shares("text_to_image", self._ruler.measured(images), self._parts)


class Alone(LatentSpace):
    """Two networks of a config and their one task, where training expects a latent space.

    Subclasses define the source type, the loss given the zones of a batch, the outputs for anchors
    and their accuracy.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        super().__init__(config, mesh)
        encoders = {self.source: self.types[self.source].encoder}
        loss = Loss(type(self).__name__, self._loss, 1.0)
        self.plan = self.plan._replace(
            encoders=encoders, decodings=(), alignings=(), losses=(loss,), num_latents=None
        )

    def init(self, key):
        return {name: own for name, own in super().init(key).items() if name in self.networks}

    def _loss(self, variables, batch, zones, key):
        """The loss and no metrics, as training takes them."""
        (zones,) = zones[self.source]
        return self.error(variables, batch, zones, list(jax.random.split(key))), {}

    def answers(self, variables, samples):
        key, encode = jax.random.key(self.config.seed), self.types[self.source].encoder.anchors

        @jax.jit
        def answer(batch):
            samples, index = batch
            return self.answer(variables, key, encode(variables, samples), index)

        request = samples, np.arange(len(samples))
        return self.in_batches(answer, request, description="answering")


class Captioner(Alone):
    networks, source = ("encoder", "text_decoder"), "image"
    noise = 0.0  # in training, in units of the anchors' standard deviation in a batch

    def error(self, variables, batch, zones, keys):
        anchors = zones.anchors
        scale = self.noise * jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.var(anchors, axis=0))))
        noisy = anchors + scale * jax.random.normal(keys[1], anchors.shape)
        return self.types["text"].decoder.loss(variables, batch, (noisy, None), keys[:1])

    def answer(self, variables, key, anchors, index):
        return self.types["text"].decoder.generate(variables, key, (anchors, None), index)["tokens"]

    def measured(self, tokens, measure):
        return measure.written(measure.tokenizer.decode(tokens))


class TextToImage(Alone):
    networks, source = ("text_encoder", "decoder"), "text"

    def init(self, key):
        beside = jnp.zeros((1, self.types["text"].condition_dim))
        condition = self._given(key, beside, np.arange(1))
        decoder = self.types["image"].decoder.init(jax.random.fold_in(key, 1), condition)
        return {**super().init(key), "decoder": decoder}

    def error(self, variables, batch, zones, keys):
        beside = self.types["text"].condition(batch, zones)
        condition = self._given(keys[0], beside, np.arange(len(beside)))
        return self.types["image"].decoder.loss(variables, batch, condition, keys)

    def answer(self, variables, key, beside, index):
        condition = self._given(key, beside, index)
        return self.types["image"].decoder.generate(variables, key, condition, index)["images"]

    def _given(self, key, beside, index):
        """A flow has its noise; a decoder of one pass has noise in the place of latents."""
        if isinstance(self.types["image"].decoder, FlowDecoder):
            return None, beside
        shape = (self.config.latent.dim,)
        return normal_by_index(key, "prior_latents", jnp.asarray(index), shape), beside

    def measured(self, images, measure):
        return measure.made(images)


class Classifier(Alone):
    networks, source = ("encoder", "heads"), "image"
    sizes = tuple(map(len, (digit_captions.DIGITS, digit_captions.WEIGHTS, digit_captions.LEANS)))
    heads = nn.Dense(sum(sizes))  # three layers side by side

    def init(self, key):
        anchors = jnp.zeros((1, self.config.latent.dim))
        return {**super().init(key), "heads": self.heads.init(key, anchors)}

    def error(self, variables, batch, zones, keys):
        parts = zip(self._logits(variables, zones.anchors), batch["parts"].T, strict=True)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return sum(jnp.mean(cross_entropy(logits, part)) for logits, part in parts)

    def answer(self, variables, key, anchors, index):
        return [jnp.argmax(logits, axis=1) for logits in self._logits(variables, anchors)]

    def measured(self, parts, measure):
        return measure.written(digit_captions.compose(digit_captions.Parts(*parts)))

    def _logits(self, variables, anchors):
        logits = self.heads.apply(variables["heads"], anchors)
        return jnp.split(logits, np.cumsum(self.sizes)[:-1], axis=1)


NOISY = {
    f"captioner_{noise}": type("NoisyCaptioner", (Captioner,), {"noise": noise})
    for noise in (0.1, 0.2, 0.4, 0.8)
}
NETWORKS = {"captioner": Captioner, "text_to_image": TextToImage, "classifier": Classifier} | NOISY
TASKS = (*NETWORKS, "support_vectors")
COSTS, WIDTHS = (1, 10, 100, 1e3, 1e4, 1e5), (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)  # C and γ


def support_vectors(examples: Examples) -> Any:
    """Classifiers of a caption's parts by the pixels of digits: images -> captions.

    Each part's penalty C and width γ are the best on the validation part of the examples, by which
    they are not fit; with them it is fit on all.
    """
    parts = digit_captions.parse(examples.texts)
    is_apart = data.set_apart(examples.labels, None, len(examples.labels) // 5, seed=0)
    pixels = as_pixels(examples.images)

    def right(settings, part):
        fitted = SVC(**settings).fit(pixels[~is_apart], part[~is_apart])
        return fitted.score(pixels[is_apart], part[is_apart])

    grid = [{"C": c, "gamma": g} for c in COSTS for g in WIDTHS]
    fitted = []
    for name, part in parts._asdict().items():
        settings = max(grid, key=functools.partial(right, part=part))
        print(f"support vectors of {name}: {settings}, {right(settings, part):.4g} on validation")
        fitted.append(SVC(**settings).fit(pixels, part))
    return lambda images: digit_captions.compose(
        digit_captions.Parts(*(each.predict(as_pixels(images)) for each in fitted))
    )


def train(
    name: str, config: ConfigDict, examples: Examples
) -> tuple[Alone, Any, list[float], float]:
    """A task's networks and averaged variables, the loss of every update, seconds of training.

    Batches are those of the config's own run, in the same order. An update is a call, as in that
    run: a scan over updates makes convolutions several times slower on a CPU. Compilation is not
    counted.
    """
    training, space = ConfigDict(config.training), NETWORKS[name](config, devices.inference_mesh())
    training.learning_rate.heads = training.learning_rate.text_decoder  # the networks they replace
    optimizer = train_module.make_optimizer(training, list(space.networks))
    kwargs = {"space": space, "optimizer": optimizer, "training": training, "seed": config.seed}
    update = jax.jit(functools.partial(train_module.update_state, **kwargs), donate_argnums=0)
    columns = space.columns(examples)
    columns["parts"] = np.stack(digit_captions.parse(examples.texts), axis=1, dtype=np.int32)
    size, transform = training.batch_size, space.transform
    batches = TrainingBatches(examples, size, config.seed, transform, columns=columns)
    state = jax.jit(lambda: train_module.init_state(space, optimizer, config.seed))()
    update = update.lower(state, batches.shapes()).compile()
    losses, start = [], time.perf_counter()
    with batches, progress(training.num_steps, f"{name}, seed {config.seed}") as bar:
        while len(losses) < training.num_steps:
            state, metrics = update(state, next(batches))
            losses.append(float(metrics["loss"]))
            bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
            bar.update(1)
    seconds = time.perf_counter() - start
    return space, models.join_variables(state.ema, state.constants), losses, seconds


def evaluate(space: Alone, variables: Any, measure: Measure) -> evidence.Summary:
    samples = measure.images if space.source == "image" else measure.tokens
    return space.measured(space.answers(variables, samples), measure)


def measured(
    name: str, config: ConfigDict, examples: Examples, measure: Measure
) -> evidence.Summary:
    """What a task's networks, once trained, do of the test examples."""
    if name == "support_vectors":
        return measure.written(support_vectors(examples)(measure.images))
    space, variables, losses, seconds = train(name, config, examples)
    return evaluate(space, variables, measure) | {
        "parameters": sum(a.size for a in jax.tree.leaves(variables)),
        "seconds": seconds,
        "seconds_per_update": seconds / len(losses),
    }


def main() -> None:
    """Trains all tasks with all seeds, prints the table, which is also written as JSON."""
    parser = shared.parser(__doc__)
    parser.add_argument("--config", default="configs/digits_text.py")
    parser.add_argument("--seeds", type=int, default=3)
    default = [name for name in TASKS if name not in NOISY]
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=default)
    parser.add_argument("--folder", type=Path, default=Path("results/text_baselines"))
    arguments, overrides = shared.parse(parser)
    results: evidence.Results = {"real images": []}
    for seed in range(arguments.seeds):
        config = configuration.load(arguments.config, [*overrides, f"seed={seed}"])
        config = data.fit_context(config)
        examples, test = data.load_data(config)
        measure = Measure(config, examples, test)
        results["real images"] = [measure.made(measure.images)]
        for name in arguments.tasks:
            results.setdefault(name, []).append(measured(name, config, examples, measure))
            path = arguments.folder / f"{Path(arguments.config).stem}.json"
            files.write_json(path, results)
    evidence.print_table(results, METRICS)


if __name__ == "__main__":
    main()
