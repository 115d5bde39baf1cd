"""Images, labels and texts in one space: the loss from its parts, and every translation."""

import csv
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data, inference, loading, main, plan, plots, zoning
from lzn_jax.data import digits as digits_data
from lzn_jax.data_types import Context, Model, Zones
from lzn_jax.data_types import text as text_module
from lzn_jax.errors import UserError
from lzn_jax.evaluation import measurements, tasks
from lzn_jax.evaluation.texts import DigitCaptions, embedded, measure
from lzn_jax.losses import contrastive
from lzn_jax.models import named, normal_by_index
from lzn_jax.run import workdir
from lzn_jax.trained_model import TrainedModel

CONFIG = "configs/digits_text.py"
KEY = jax.random.key(3)
PAIRS = {
    ("image", "text"), ("image", "label"), ("label", "image"), ("label", "text"),
    ("text", "image"), ("text", "label"),
}  # fmt: skip

world = functools.partial(small.world, "digits_text")
# Other values than those of a decoder's flow and of weights.
WEIGHTS = {"training__generation_weight": 0.5, "training__text_weight": 2, "alignment__weight": 3}
WEIGHTED = {**WEIGHTS, "alignment__num_steps": 5}


def digits():
    return world().digits


def batch(*gone):
    """Training examples, some without a text."""
    tokens = np.array(world().batch["tokens"])
    tokens[list(gone)] = 0
    return world().batch | {"tokens": tokens}


def loss_and_metrics(batch, **changes):
    return world(**changes).loss(world().variables, batch, KEY)


@jax.jit
def latents_of(zones, noise):
    """Latents of a batch in zones, for noise that is already scaled."""
    return zoning.compute_latents(
        zones.anchors, noise, zones.own, solver=zoning.Euler(4), log_weights=zones.log_weights
    )


def noise_of(source, use, name="normal", shape=(16, 4)):
    return getattr(jax.random, name)(named(KEY, f"{source}_latents_{use}"), shape)


def test_the_loss_is_the_weighted_sum_of_decoders_and_alignments():
    loss, metrics = loss_and_metrics(batch(), **WEIGHTED)
    pairs = ("image_to_text", "image_to_label", "text_to_label")
    aligned = sum(metrics[f"alignment_loss_{pair}"] for pair in pairs)
    expected = 0.5 * metrics["generation_loss"] + 2 * metrics["text_loss"] + 3 * aligned
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert all(float(metrics[f"alignment_loss_{pair}"]) > 0 for pair in pairs)


@pytest.mark.parametrize(
    ("name", "loss_of", "setting"),
    [
        ("siglip", contrastive.siglip, {"temperature": 0.3, "bias": -2.0}),
        *small.slow(("infonce", contrastive.info_nce, {"temperature": 0.3})),
    ],
)
def test_the_baselines_have_their_losses_of_images_and_present_texts(name, loss_of, setting):
    fields = {f"{name}__{field}": value for field, value in setting.items()}
    space, rows = world(objective=name, **fields).space, np.setdiff1d(np.arange(16), [3])

    @jax.jit
    def expected(variables, batch):
        columns = {"image": "images", "text": "tokens"}
        sides = (space.encoders[n].anchors(variables, batch[c])[rows] for n, c in columns.items())
        return loss_of(*sides, **setting)[0]

    loss, metrics = loss_and_metrics(batch(3), objective=name, **fields)
    assert float(loss) == pytest.approx(float(expected(world().variables, batch(3))), rel=1e-5)
    assert metrics.keys() == {"assignment_accuracy"}
    assert space.decoders == {}
    assert set(measurements.functions(space, "measurement")) == {"classification", "texts"}
    assert TrainedModel(space, Model({}, {}), 0).translations == ()


@jax.jit
def zones_of(variables, batch):
    encoders = world().space.plan.encoders.items()
    return {name: encoder.zones(variables, batch, (KEY,))[0] for name, encoder in encoders}


# In one program: other latents of the image decoder, and other noise of the text decoder.
OTHERS = {"decoder__sources": ("image", "text"), "text_decoder__noise_scale": 0.3}


@functools.cache
def conditions_of(**changes):
    """A function of (zones, batch): conditions of decoders whose loss is a mean, and metrics."""
    space, given = small.World("digits_text", alignment__weight=0, **changes).space, {}
    for name, decoder in space.decoders.items():

        def loss(variables, batch, condition, keys, name=name):
            given[name] = condition
            return jnp.mean(batch["images"] / 255) + jnp.mean(condition[0] ** 2)

        decoder.loss = loss

    @jax.jit
    def conditions(zones, batch):
        for name, encoder in space.plan.encoders.items():
            encoder.zones = lambda *_, name=name: (zones[name],)
        _, metrics = plan.loss(space.plan, {}, batch, KEY)
        return given, metrics

    return conditions


def conditions(batch, **changes):
    """Conditions of the decoders by type, and the zones of all types."""
    zones = zones_of(world().variables, batch)
    return conditions_of(**changes)(zones, batch)[0], zones


def test_decoders_learn_from_latents_of_texts_and_of_images_in_turn():
    given, zones = conditions(batch())
    expected = {n: latents_of(zones[n], noise_of(n, "decoder")) for n in ("image", "text")}
    latents, beside = given["image"]
    np.testing.assert_allclose(latents[::2], expected["text"][::2], atol=1e-5)
    np.testing.assert_allclose(latents[1::2], expected["image"][1::2], atol=1e-5)
    np.testing.assert_allclose(beside, zones["text"].anchors, atol=1e-6)
    assert given["text"][1] is None


@pytest.mark.parametrize(("scale", "changes"), [(None, {}), (0.3, OTHERS)])
def test_the_text_decoder_learns_from_latents_at_its_own_noise_scale(scale, changes):
    given, zones = conditions(batch(), **changes)
    found = given["text"][0]
    for turn, name in enumerate(world().space.decoders["text"].sources):
        alpha = scale
        if scale is None:  # each text has its own
            alpha = noise_of(name, "text_decoder_scale", "uniform", (16, 1))
        expected = latents_of(zones[name], alpha * noise_of(name, "text_decoder"))
        np.testing.assert_allclose(found[turn::2], expected[turn::2], atol=1e-5)


def test_conditions_of_some_samples_are_the_texts_of_these():
    given, zones = conditions(batch(), training__queries=8)
    latents, beside = given["image"]
    assert latents.shape == (8, 4)
    np.testing.assert_allclose(beside, zones["text"].anchors[::2], atol=1e-6)


def test_an_image_without_a_caption_takes_no_part_where_texts_do():
    missing = batch(4)
    given, zones = conditions(missing)
    assert not given["image"][1][4].any()  # no condition
    assert np.isneginf(zones["text"].log_weights[4])
    changed = {**missing, "images": missing["images"].at[4].set(0)}
    relabelled = {**missing, "labels": missing["labels"].at[4].set(9)}
    (_, before), (_, after), (_, others) = (
        loss_and_metrics(each, **WEIGHTED) for each in (missing, relabelled, changed)
    )
    assert float(after["text_loss"]) == pytest.approx(float(before["text_loss"]), rel=1e-5)
    name = "alignment_loss_image_to_label"
    assert float(others[name]) != pytest.approx(float(before[name]))


def test_alignments_are_losses_of_the_samples_that_are_there():
    missing = batch(4, 9)
    alignment = world().config.alignment
    zones = zones_of(world().variables, missing)
    _, metrics = loss_and_metrics(missing, **WEIGHTED)
    everything = np.ones(16, bool)
    there = ~np.isin(np.arange(16), [4, 9])
    setting = {"solver": zoning.Euler(5), "cutoff": 0.2, "form": alignment.form}
    loss_of = jax.jit(functools.partial(zoning.alignment_loss, **setting))
    for pair, is_present in (
        (("image", "text"), there),
        (("image", "label"), everything),
        (("text", "label"), there),
    ):
        source, target = (zones[name] for name in pair)
        latents = latents_of(source, alignment.noise_scale * noise_of(pair[0], "aligned"))
        expected, of_all = (
            float(
                loss_of(
                    latents,
                    target.anchors,
                    target.own,
                    log_weights=target.log_weights,
                    is_present=rows,
                )[0]
            )
            for rows in (is_present, everything)
        )
        found = float(metrics[f"alignment_loss_{pair[0]}_to_{pair[1]}"])
        assert found == pytest.approx(expected, rel=1e-4), pair
        assert is_present is everything or found != pytest.approx(of_all, rel=1e-3), pair


@pytest.mark.parametrize("changes", [{}, OTHERS])
def test_a_missing_text_makes_way_for_the_images_own_latent(changes):
    given, zones = conditions(batch(4, 5), **changes)
    own = latents_of(zones["image"], noise_of("image", "decoder"))
    np.testing.assert_allclose(given["image"][0][4:6], own[4:6], atol=1e-5)


def test_an_image_without_a_latent_is_no_example_of_the_decoder():
    losses, gone, some = [], [0, 1, 5, 15], batch(0, 1, 5, 15)

    def loss_of(batch):
        found = conditions_of(decoder__sources="('text',)")
        return float(found(zones_of(world().variables, batch), batch)[1]["generation_loss"])

    images = np.asarray(some["images"])
    for image in (images[0], 255 - images[2]):
        images = images.copy()
        images[gone] = image
        losses.append(loss_of({**some, "images": images}))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] > 0
    assert loss_of(batch(*range(16))) == 0


def test_stand_ins_are_the_last_rows_before_that_are_there():
    is_there = np.array([False, True, False, False, True, False])
    assert jax.jit(plan._stand_ins)(is_there).tolist() == [4, 1, 1, 1, 4, 4]


def test_a_pair_is_present_where_both_samples_are():
    one, other = (
        Zones(jnp.zeros((4, 2)), is_present=jnp.array(rows))
        for rows in ([True, True, False, False], [True, False, True, False])
    )
    everything = Zones(jnp.zeros((4, 2)))
    assert plan._all_present(one, everything, other).tolist() == [True, False, False, False]
    assert plan._all_present(everything, everything) is None


@pytest.fixture(scope="module")
def two_flows():
    """A model whose two flows differ, and whose known texts have known anchors."""
    space = world(latent__num_steps=2, alignment__num_steps=7).space
    tokens, log_weights = text_module.known(space.types["text"].tokenizer, 12, digits()[0].texts, 0)
    anchors = jax.random.normal(jax.random.key(1), (12, 4))
    context = {"text": Context(anchors, jnp.asarray(log_weights), jnp.asarray(tokens))}
    return TrainedModel(space, Model(world().variables, context), 0)


def test_a_labels_latent_is_by_the_flow_to_labels_and_a_texts_by_that_of_training(two_flows):
    model, own = two_flows, np.arange(40) % 10
    table = model.space.encoders["label"].table(world().variables)
    bank, log_weights, *_ = model.model.context["text"]
    cases = {
        "label": (own, table, None, zoning.Euler(7)),
        "text": (model.context_samples("text", own), bank, log_weights, zoning.Euler(2)),
    }
    for source, (samples, anchors, weights, solver) in cases.items():
        found = model.encode(samples, KEY, 0.7, source=source)
        noise = 0.7 * normal_by_index(KEY, f"{source}_latents", jnp.arange(40), (4,))
        own = jnp.asarray(own)
        expected = zoning.compute_latents(anchors, noise, own, solver=solver, log_weights=weights)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=source)


def test_texts_and_classes_of_latents_are_where_the_flow_of_the_alignment_ends(
    two_flows, monkeypatch
):
    space, model = two_flows.space, two_flows.model
    latents = jax.random.normal(KEY, (100, 4))
    weights = {"log_weights": model.context["text"].log_weights}
    asked = []

    def predict(space, model, latents, target):
        asked.append(latents)
        return {"classes": jnp.zeros(12, int)}

    @jax.jit
    def ends(model):
        bank, table = (
            model.context["text"].anchors,
            space.encoders["label"].table(model.variables),
        )
        flows = [zoning.Euler(7), zoning.Euler(2)]
        labels = [zoning.classify(latents, table, solver=flow) for flow in flows]
        zones = [zoning.classify(latents, bank, solver=flow, **weights) for flow in flows]
        centres = zoning.compute_latents(bank, jnp.zeros_like(bank), solver=flows[1], **weights)
        return labels, zones, centres

    @jax.jit
    def found(model):
        of_all = inference.class_probabilities(space, model, latents, "label")
        zones = inference.zone_in_context(space, model, latents, "text", {})
        monkeypatch.setattr(inference, "predict", predict)
        inference.zone_in_context(space, model, latents, "text", {"label": jnp.zeros(100, int)})
        return of_all, zones, asked[0]

    labels, zones, centres = jax.device_get(ends(model))
    assert np.any(labels[0] != labels[1])
    assert np.any(zones[0] != zones[1])
    classes = two_flows.classes(latents)
    np.testing.assert_array_equal(classes.classes, labels[0])
    of_all, among, asked_centres = jax.device_get(found(model))
    np.testing.assert_allclose(of_all[range(100), labels[0]], classes.probabilities, atol=1e-5)
    np.testing.assert_array_equal(among, zones[0])
    np.testing.assert_allclose(asked_centres, centres, atol=1e-5)


def test_an_image_of_a_text_has_the_texts_own_anchor_as_condition(two_flows):
    model = TrainedModel(small.World("digits_text").space, two_flows.model, 0)
    model.space.decoders["image"].generate = lambda variables, key, condition, index: {
        "images": condition[1]
    }
    asked = ["a bold seven leaning left", "of no known text", "a thin zero leaning right"]
    conditions = model.translate(asked, "text", "image")
    np.testing.assert_allclose(conditions, model.anchors(asked, source="text"), atol=1e-5)


@pytest.fixture
def model():
    return world().model


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Folder of a run that is restored as the model, and flags of a command for it."""
    monkeypatch.setattr(workdir, "has_checkpoint", lambda folder: True)
    monkeypatch.setattr(loading, "restore", lambda config, folder: model)
    return tmp_path, [*small.flags(CONFIG, tmp_path), "--mode=translate"]


@pytest.mark.slow
def test_every_pair_of_types_is_a_translation(model):
    assert set(model.translations) == PAIRS
    test = digits()[1]
    samples = {"image": test.images[:5], "label": test.labels[:5], "text": list(test.texts[:5])}
    for source, target in model.translations:
        found = model.translate(samples[source], source, target)
        assert len(found) == 5
        if target == "image":
            assert found.dtype == np.uint8
            assert found.shape == (5, 8, 8, 1)
        elif target == "label":
            assert set(found.tolist()) <= set(range(10))
        else:
            assert all(isinstance(text, str) for text in found)
    assert model.generate("image", 3).shape == (3, 8, 8, 1)
    assert len(model.generate("text", 3)) == 3


@pytest.mark.parametrize("given", [None, 0.3])
def test_noise_scale_is_the_given_one_else_1_to_images_and_that_of_the_alignment_from_labels(
    given, model, monkeypatch
):
    asked, found = {}, {"classes": np.zeros(2, int), "images": np.zeros(2)}
    found["tokens"] = np.zeros((2, 40), int)

    def made(self, samples, source, target, noise_scale, key):
        asked[source] = noise_scale
        return found

    monkeypatch.setattr(TrainedModel, "_made", made)
    test = digits()[1]
    samples = {"image": test.images[:2], "label": test.labels[:2], "text": list(test.texts[:2])}
    for source, target in PAIRS:
        model.translate(samples[source], source, target, noise_scale=given)
        expected = 1.0 if target == "image" or source == "label" else 0.0
        if source == "label":  # aligned, and no condition of a decoder
            expected = 0.45
        assert asked[source] == (expected if given is None else given), (source, target)


def test_a_condition_that_latents_do_not_give_is_asked_for():
    space = small.World("digits_joint", latent__enabled=False).space
    request = {"latents": None, "samples": {}}
    with pytest.raises(UserError, match="conditioned on labels: pass a label for each"):
        inference.condition(space, Model({}, {}), request, "label")


@pytest.mark.parametrize("objective", ["lzn", "infonce"])
def test_retrieval_compares_centres_of_zones_or_anchors_of_clips_loss(objective):
    model = TrainedModel(world(objective=objective).space, Model(world().variables, {}), 0)
    images = digits()[1].images[:16]
    found = embedded(model, images, "image")
    expected = anchors = jnp.asarray(model.anchors(images))
    if objective == "lzn":
        expected = latents_of(Zones(anchors), np.zeros((16, 4), np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_latent_of_a_label_is_decoded_among_the_labels_texts():
    space, variables = world().space, world().variables
    bank, latents = jax.random.normal(KEY, (2, 12, 4))
    log_weights = np.where(np.arange(12) == 5, -np.inf, 0.0)

    @jax.jit
    def zones(variables):
        context = {"text": Context(bank, jnp.asarray(log_weights))}
        model = Model(variables, context)
        centres = zoning.compute_latents(
            bank, jnp.zeros_like(bank), solver=space.solver, log_weights=log_weights
        )
        classes = inference.predict(space, model, centres, "label")["classes"]
        among = [
            inference.zone_in_context(space, model, latents[:10], "text", samples)
            for samples in ({}, {"label": jnp.arange(10)})
        ]
        return classes, *among

    classes, anywhere, among = jax.device_get(zones(variables))
    there = set(np.delete(classes, 5).tolist())
    assert 1 < len(there) < 10
    for label, zone in enumerate(among.tolist()):
        assert zone != 5  # which is no known text
        assert zone == anywhere[label] if label not in there else classes[zone] == label


def test_test_texts_that_the_run_cannot_read_are_named_first_and_not_measured(
    model, tmp_path, caplog, monkeypatch
):
    small.without_pictures(monkeypatch)
    train, test = digits()

    def made(self, samples, source, target, noise_scale, key, count=None):
        some = train.at(np.arange(count or len(samples)))
        return {"images": some.images, "classes": some.labels, **self.space.columns(some)}

    monkeypatch.setattr(TrainedModel, "_made", made)
    monkeypatch.setattr(DigitCaptions, "_from_prior", lambda self: {})
    some = test.texts[:20].astype(object)
    some[[0, 3, 7]] = "", "a çat", 99 * "a"
    cut = test.at(np.arange(20))._replace(texts=some)
    whole = cut.at(np.setdiff1d(np.arange(20), [0, 3, 7]))
    caplog.set_level("INFO")
    measurements.prepare(model.space, cut)
    assert "left out: the test text 'a çat' has characters outside the run" in caplog.text
    assert "test texts left out: 2 distinct, of 2 examples" in caplog.text
    found = measure(model, train, cut, tmp_path)
    assert found == measure(model, train, whole, tmp_path)
    assert {"image_to_text_exact", "text_to_image_exact", "retrieval_image_to_text_r1"} <= set(
        found
    )
    none = cut._replace(texts=np.full(20, "", object))
    assert measure(model, train, none, tmp_path) == {}
    shown = []
    monkeypatch.setattr(plots, "tasks", lambda path, bands: shown.extend(bands))
    tasks.draw(model, cut, tmp_path)
    assert {title for title, *_ in shown} >= {"text to image", "image to text"}


def test_what_does_not_fit_is_one_line_that_names_the_pairs(model, run, capsys):
    with pytest.raises(UserError, match="translates image to text, image to label"):
        model.translate(["a"], "text", "sound")
    with pytest.raises(UserError, match="outside the run's vocabulary: !"):
        model.translate(["a bold seven!"], "text", "label")
    with pytest.raises(UserError, match="texts must be a list of samples, got the string"):
        model.translate("a bold seven", "text", "label")
    for call in (lambda: model.translate([], "text", "label"), lambda: model.generate("text", 0)):
        with pytest.raises(UserError, match="at least 1, got 0"):
            call()
    with pytest.raises(UserError, match="there is no class 11"):
        model.translate([11], "label", "image")
    flags = [*run[1], "--source=text"]
    assert main.main([*flags, "--target=image", "--input=a bold seven!"]) == 2
    assert main.main(flags) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "outside the run's vocabulary: !" in errors[0]
    assert "--mode=translate go together" in errors[1]


@pytest.mark.parametrize(
    ("source", "target", "given", "count"),
    [
        ("text", "image", "a bold seven leaning left", 1),
        *small.slow(
            ("text", "label", "texts.txt", 2),
            ("label", "text", "3,1,4", 3),
            ("image", "text", None, 360),
        ),
    ],
)
def test_the_mode_writes_samples_and_a_figure(source, target, given, count, run, tmp_path):
    if given == "texts.txt":
        given = tmp_path / given
        given.write_text("a thin zero leaning right\n\na bold one standing upright\n")
    flags = [f"--source={source}", f"--target={target}"]
    flags += [] if given is None else [f"--input={given}"]
    assert main.main([*run[1], *flags]) == 0
    if target == "image":
        assert np.load(run[0] / "translations.npz")["images"].shape == (count, 8, 8, 1)
    else:
        with open(run[0] / "translations.csv") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["index", "source", "target"]
        assert len(rows) == count + 1
        first = {"text": "a thin zero leaning right", "label": "3", "image": "0"}
        assert rows[1][1] == first[source]
    assert (run[0] / "figures" / "translations.png").stat().st_size > 0


def test_the_mode_leaves_out_test_texts_that_the_run_cannot_read(run, monkeypatch):
    test = digits()[1]
    made = {"classes": np.zeros(1, int)}
    monkeypatch.setattr(TrainedModel, "_made", lambda *_: made)
    texts = np.array(["a thin zero leaning right", "a çat", "", 99 * "a"], object)
    monkeypatch.setattr(data, "load", lambda *_: test._replace(texts=texts))
    assert main.main([*run[1], "--source=text", "--target=label"]) == 0
    with open(run[0] / "translations.csv") as file:
        assert [row["source"] for row in csv.DictReader(file)] == [texts[0]]


def test_images_without_a_text_as_condition_are_not_asked_whether_they_fit_it(monkeypatch):
    model = TrainedModel(world(decoder__condition="None").space, Model({}, {}), 0)
    made = {"images": digits()[0].images[:1], "tokens": np.asarray(world().batch["tokens"])}
    monkeypatch.setattr(TrainedModel, "_made", lambda *_, **__: made)
    found = DigitCaptions(model, digits()[0], digits_data.ruler())._from_prior()
    assert found.keys() == {
        "text_well_formed", "text_total_variation", "real_text_total_variation",
    }  # fmt: skip
