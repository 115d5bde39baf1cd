"""Texts as tokens, the decoder's loss and what it writes, and latents among known texts."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn

from lzn_jax import zoning
from lzn_jax.data import Examples
from lzn_jax.data_types import Context, Model
from lzn_jax.data_types.text import Text, known
from lzn_jax.errors import UserError
from lzn_jax.models import keys_by_index, transformer
from lzn_jax.run import devices as devices_module
from lzn_jax.run.batching import in_batches
from lzn_jax.tokenizers import of_characters

LETTERS = of_characters(" ab", 6)
ENCODER = transformer.Encoder(4, 6, latent_dim=5, features=8, num_layers=1, num_heads=2)
DECODER = transformer.Decoder(4, 6, features=8, num_layers=1, num_heads=2)


def config(**changes):
    sizes = {"data__captions": True, "text__max_length": 6, "text__context_size": 4}
    return small.config("configs/digits_text.py", text__alphabet=" ab", **sizes | changes)


class Sums:
    """A network whose anchors are sums of rows of a table, by place and token."""

    table = np.random.default_rng(2).normal(size=(6, 4, 5)).astype(np.float32)

    @classmethod
    def apply(cls, variables, tokens, *, train):
        return jnp.asarray(cls.table)[jnp.arange(6), tokens].sum(axis=1)


def encoder_of_sums():
    encoder = Text(config()).encoder
    encoder.module = Sums
    return encoder


def decoder_of(network, **changes):
    decoder = Text(config(**changes)).decoder
    decoder.module = network
    return decoder


def variables(module, *arguments, scale=0.5, seed=0):
    init = functools.partial(module.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), *arguments)
    return jax.device_put(small.drawn(shapes, scale, seed))


anchors_of = jax.jit(functools.partial(ENCODER.apply, train=False))
logits_of = jax.jit(functools.partial(DECODER.apply, train=False))


def test_texts_of_a_data_set_that_cannot_be_said_are_counted_and_named(caplog):
    texts, labels = np.array(["a", "", "abc", "abc", "ababab"]), np.zeros(5, np.int32)
    examples = Examples(None, labels, texts)
    assert Text(config()).columns(examples)["tokens"][:, 0].tolist() == [2, 0, 0, 0, 0]
    named, too_long, counted = caplog.messages
    assert "'abc' has characters outside the run's vocabulary: c" in named
    assert "'ababab' is longer than the run's 5 tokens" in too_long
    assert counted == "texts left out: 2 distinct, of 3 examples"
    with pytest.raises(UserError, match="has no texts"):
        Text(config()).columns(examples._replace(texts=None))


def test_an_anchor_depends_on_the_tokens_before_the_end_not_on_the_room_behind():
    tokens = np.int32(
        [[1, 2, 0, 0, 0, 0], [1, 2, 0, 3, 1, 2], [2, 1, 0, 0, 0, 0], [1, 3, 0, 0, 0, 0]]
    )
    params = variables(ENCODER, tokens)
    first, behind, *others = np.asarray(anchors_of(params, tokens))
    np.testing.assert_allclose(first, behind, atol=1e-6)
    assert np.all(np.abs(np.stack(others) - first).max(axis=1) > 1e-3)
    short = anchors_of(params, tokens[:, :3])
    np.testing.assert_allclose(short[0], first, atol=1e-5)


def test_tokens_reach_an_anchor_beside_the_convolution_too():
    tokens = np.int32([[1, 2, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0]])
    params = variables(ENCODER, tokens)["params"]
    params = {"params": {**params, "Conv_0": jax.tree.map(np.zeros_like, params["Conv_0"])}}
    first, second = np.asarray(anchors_of(params, tokens))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("name", ["text_encoder", "text_decoder"])
def test_a_network_drops_out_at_its_own_rate(name):
    made = Text(config(**{f"{name}__dropout": 0.5}))
    encoder, decoder = made.encoder, made.decoder
    tokens, latents = LETTERS.encode(["ab", "b a"]), np.ones((2, 4), np.float32)
    params = {
        "text_encoder": variables(encoder.module, tokens),
        "text_decoder": variables(decoder.module, tokens, latents),
    }

    @jax.jit
    def found(batch, latents, key):
        (zones,) = encoder.zones(params, batch, [key])
        loss = decoder.loss(params, batch, (latents, None), [key])
        return {"text_encoder": zones.anchors, "text_decoder": loss}

    first, other = (found({"tokens": tokens}, latents, jax.random.key(seed)) for seed in (0, 1))
    is_random = {network: not np.array_equal(first[network], other[network]) for network in first}
    assert is_random == {network: network == name for network in first}


def test_a_token_sees_those_before_it_and_the_latent():
    tokens, other = np.int32([[1, 2, 3, 1, 2, 0]]), np.int32([[1, 2, 1, 1, 2, 0]])
    latents = np.ones((1, 5), np.float32)
    params = variables(DECODER, tokens, latents)

    def logits(tokens, latents=latents):
        return np.asarray(logits_of(params, tokens, latents))[0]

    changed = logits(other) - logits(tokens)
    assert not np.abs(changed[:3]).max() > 1e-6
    assert np.all(np.abs(changed[3:]).max(axis=1) > 1e-4)
    assert np.all(np.abs(logits(tokens, 2 * latents) - logits(tokens)).max(axis=1) > 1e-4)


class Table(nn.Module):
    """Logits (l, v), whatever is asked."""

    logits: tuple[tuple[float, ...], ...]
    max_length = 6

    def __call__(self, tokens, latents, *, train):
        return self.next_logits(tokens, jnp.arange(len(self.logits)), latents)

    def next_logits(self, before, positions, latents, *, cached=False):
        table = jnp.asarray(self.logits)[positions]
        return jnp.broadcast_to(table, (len(before), *table.shape))


def decoder_of_table(rows, **changes):
    return decoder_of(Table(tuple(map(tuple, np.asarray(rows).tolist()))), **changes)


def written(decoder, index):
    """Tokens that a decoder without variables writes."""

    @jax.jit
    def generate(latents, index):
        key = jax.random.key(0)
        return decoder.generate({"text_decoder": {}}, key, (latents, None), index)["tokens"]

    return np.asarray(generate(np.zeros((len(index), 1), np.float32), np.asarray(index)))


def test_the_loss_is_the_cross_entropy_of_tokens_to_the_first_end_of_texts_that_are_there():
    table = np.random.default_rng(0).standard_normal((6, 4))
    tokens = np.array([[1, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
    log_p = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    said = [log_p[0, 1], log_p[1, 3], log_p[2, 0], log_p[0, 2], log_p[1, 0]]
    batch, key = {"tokens": tokens}, jax.random.key(0)
    loss_of = jax.jit(decoder_of_table(table).loss)
    loss = loss_of({"text_decoder": {}}, batch, (None, None), [key])
    assert float(loss) == pytest.approx(-np.mean(said), rel=1e-5)


def test_the_likeliest_tokens_are_written_up_to_the_end():
    table = np.zeros((6, 4))
    table[[0, 1, 2, 3], [2, 1, 0, 3]] = 1.0  # "b", "a"?, end; what follows is not said
    assert written(decoder_of_table(table), range(2)).tolist() == [[2, 1, 0, 0, 0, 0]] * 2


def test_texts_drawn_at_temperature_1_have_the_probabilities_of_the_logits():
    table = np.log(np.tile([0.1, 0.2, 0.3, 0.4], (6, 1)))
    decoder = decoder_of_table(table, sampling__temperature=1.0)
    drawn = written(decoder, range(4000))
    shares = np.bincount(drawn[:, 0], minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.3, 0.4], atol=0.03)
    np.testing.assert_array_equal(written(decoder, [7, 8]), drawn[7:9])  # a text goes by its number


def written_by_whole_passes(decoder, params, key, latents, index):
    """Tokens as a network without kept keys and values writes them, all anew for each place."""
    keys = jax.jit(keys_by_index, static_argnums=1)(key, "text_tokens", index)
    temperature = decoder.temperature
    tokens = np.zeros((len(latents), 6), np.int32)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def noise(key, place):
        return jax.random.gumbel(jax.random.fold_in(key, place), (4,))

    for place in range(6):
        scores = np.asarray(logits_of(params, tokens, latents))[:, place]
        if temperature:
            scores = scores / temperature + np.asarray(noise(keys, place))
        is_over = (place > 0) & (tokens[:, place - 1] == transformer.END)
        tokens[:, place] = np.where(is_over, transformer.END, np.argmax(scores, axis=1))
    return tokens


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("devices", [1, 8])
def test_texts_are_those_of_whole_passes_on_any_devices(temperature, devices):
    decoder = decoder_of(DECODER, sampling__temperature=temperature)
    latents = 3 * np.random.default_rng(4).normal(size=(11, 5)).astype(np.float32)
    index, nothing = np.arange(11) + 5, np.zeros((1, 6), np.int32)
    params = variables(DECODER, nothing, latents[:1], scale=1.0, seed=3)
    for layer in ("Dense_1", "LayerNorm_0"):  # else one token is the likeliest everywhere
        params["params"][layer]["bias"] *= 0
    key = jax.random.key(3)

    @jax.jit
    def write(request):
        condition = (request["latents"], None)
        return decoder.generate({"text_decoder": params}, key, condition, request["index"])

    request = {"latents": latents, "index": index}
    mesh = devices_module.make_mesh(8, jax.devices()[:devices])
    found = in_batches(write, request, mesh=mesh, batch_size=8, description="")["tokens"]
    expected = written_by_whole_passes(decoder, params, key, latents, index)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found, axis=0)) > 3
    assert (found == transformer.END).any()


@pytest.mark.parametrize(
    ("share", "kept"), [(1e-9, [3]), (0.4, [3]), (0.41, [2, 3]), (0.71, [1, 2, 3]), (1.0, range(4))]
)
def test_tokens_beyond_a_share_of_the_probability_are_never_drawn(share, kept):
    p = np.array([0.1, 0.2, 0.3, 0.4 + 1e-6])
    logits = np.float32(np.log([p, p[::-1]]) + 2)
    found = np.asarray(jax.jit(transformer.likeliest, static_argnums=1)(logits, share))
    assert np.flatnonzero(np.isfinite(found[0])).tolist() == list(kept)
    np.testing.assert_array_equal(found[1], found[0][::-1])
    np.testing.assert_array_equal(found[0][list(kept)], logits[0, list(kept)])
    changes = {"sampling__temperature": 1.0, "sampling__top_p": share}
    decoder = decoder_of_table(np.tile(np.log(p), (6, 1)), **changes)
    assert set(written(decoder, range(300))[:, 0].tolist()) == set(kept)


@pytest.mark.parametrize(("temperature", "kept"), [(1.0, {2, 3}), (2.0, {1, 2, 3})])
def test_a_share_is_of_the_probability_at_the_temperature(temperature, kept):
    """At 2 the probabilities of the likeliest are .33, .28 and .23."""
    table = np.tile(np.log([0.1, 0.2, 0.3, 0.4]), (6, 1))
    changes = {"sampling__temperature": temperature, "sampling__top_p": 0.65}
    drawn = written(decoder_of_table(table, **changes), range(300))
    assert set(drawn[:, 0].tolist()) == kept


def test_equal_texts_of_a_batch_share_a_zone_and_missing_ones_have_none():
    tokens, _ = LETTERS.encode_known(["a", "", "b", "a"])
    zones_of = jax.jit(encoder_of_sums().zones)
    (zones,) = zones_of({"text_encoder": {}}, {"tokens": tokens}, [jax.random.key(0)])
    assert zones.own.tolist() == [0, 0, 2, 0]
    assert zones.is_present.tolist() == [True, False, True, True]
    np.testing.assert_allclose(np.exp(zones.log_weights), [2, 0, 1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "expected", "counts"),
    [
        (["b", "a", "b", "", "ab", "b", "a"], ["b", "a", "ab", ""], [3, 2, 1, 0]),
        # Texts that cannot be tokenized are not known.
        (["çb", "çb", "çb", "a", "ababab", "b", "b", ""], ["b", "a", ""], [2, 1, 0]),
    ],
)
def test_known_texts_are_the_most_frequent_with_their_counts(texts, expected, counts):
    tokens, log_weights = known(LETTERS, len(counts), np.array(texts), 0)
    assert LETTERS.decode(tokens) == expected
    np.testing.assert_allclose(np.exp(log_weights), counts, rtol=1e-6)


def test_of_equally_frequent_texts_the_seed_chooses():
    singles = ["".join(letters) for letters in itertools.product("ab ", repeat=4)]
    texts = np.array([*singles, "bb", "bb", "çç"])

    def chosen(seed):
        return LETTERS.decode(known(LETTERS, 31, texts, seed)[0])

    first, again, other = chosen(0), chosen(0), chosen(1)
    assert first == again != other
    assert first[0] == other[0] == "bb"  # more frequent than any other
    shares = np.bincount([place // 27 for place in map(singles.index, first[1:])], minlength=3)
    assert shares.min() > 3  # of each third of the alphabetical order, for 30 of 81


def test_a_known_text_is_itself_among_the_known_and_another_joins_them():
    encoder, solver = encoder_of_sums(), zoning.Euler(5)
    tokens, log_weights = known(LETTERS, 4, np.array(["b", "a", "b", "ab"]), 0)
    params = {"text_encoder": {}}
    place = LETTERS.decode(tokens).index("a")

    @jax.jit
    def both(tokens, log_weights, asked, noise):
        anchors = encoder.anchors(params, tokens)
        context = {"text": Context(anchors, log_weights, tokens)}
        keys = jax.random.split(jax.random.key(2))
        found = encoder.encode(Model(params, context), asked, noise, keys, solver)
        kwargs = {"solver": solver, "log_weights": log_weights}
        known_latent = zoning.compute_latents(anchors, noise[:1], jnp.array([place]), **kwargs)
        other = encoder.anchors(params, asked[1:])
        joined = zoning.latents_in_context(other, anchors, noise[1:], **kwargs)
        return found, jnp.concatenate([known_latent, joined])

    noise = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    found, expected = both(tokens, log_weights, LETTERS.encode(["a", "bb"]), noise)
    np.testing.assert_allclose(found, expected, atol=1e-5)
