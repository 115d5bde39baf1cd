"""Numbers as a data type: units, zones of numbers that round alike, regression."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import models
from lzn_jax.data import Examples
from lzn_jax.data_types import property as properties
from lzn_jax.errors import UserError

KEY = jax.random.key(0)
FIELDS = {"property__centre": 1.0, "property__scale": 0.5, "property__step": 0.1}


def built():
    return properties.Property(small.config("configs/digits_property.py", **FIELDS))


def test_the_network_reads_rounded_numbers_in_units_of_the_scale_and_back():
    numbers = built()
    steps = numbers.encoded(np.array([1.0, 1.22, 0.7], np.float32))
    assert steps.tolist() == [[0], [2], [-3]]
    inputs = numbers.encoder.inputs(jnp.asarray(steps))
    np.testing.assert_allclose(inputs[:, 0], [0, 0.4, -0.6], rtol=1e-6)
    np.testing.assert_allclose(
        numbers.decoded(np.asarray(inputs[:, 0])), [1.0, 1.2, 0.7], rtol=1e-6
    )


def test_the_loss_is_the_squared_error_of_numbers_in_units_of_the_scale(monkeypatch):
    numbers = built()
    found = jnp.array([0.4, 0.0])
    monkeypatch.setattr(numbers.decoder, "_numbers", lambda *_: found)
    batch = {"property": jnp.asarray(numbers.encoded(np.array([1.2, 0.7], np.float32)))}
    assert float(numbers.decoder.loss({}, batch, (None, None), ())) == pytest.approx(0.36 / 2)


def test_numbers_that_round_alike_share_an_anchor():
    numbers = built()
    variables = {"property_encoder": numbers.encoder.init(KEY)}
    rows = np.array([1.21, 0.7, 1.19, 0.5], np.float32)
    batch = {"property": jnp.asarray(numbers.encoded(rows))}
    (zones,) = numbers.encoder.zones(variables, batch, (KEY,))
    assert zones.own.tolist() == [0, 1, 0, 3]
    np.testing.assert_allclose(np.exp(zones.log_weights), [2, 1, 0, 1])


@pytest.mark.parametrize(
    ("values", "r2"),
    [
        (np.array([0.0, 1.0, 2.0, 3.0]), {"a_to_property_r2": pytest.approx(1 - 0.25 / 1.25)}),
        (np.full(4, 0.1, np.float32), {}),  # nothing varies
    ],
)
def test_errors_and_the_share_of_the_variance_that_is_explained(tmp_path, values, r2):
    model = small.stand_in(
        space=types.SimpleNamespace(
            types={
                name: types.SimpleNamespace(samples=lambda _: values) for name in ("a", "property")
            }
        ),
        translations=(("a", "property"), ("property", "a")),
        translate=lambda samples, source, target: samples + np.array([0.5, -0.5, 0.5, -0.5]),
    )
    test = Examples(None, np.zeros(4, np.int32))
    found = properties.measure(model, test, test, tmp_path)
    assert found == {"a_to_property_mae": 0.5, **r2}


def test_what_is_no_number_is_the_users_error():
    for samples in (["a"], [], [[1.0]], [np.nan]):
        with pytest.raises(UserError, match="must be"):
            built().checked(samples)
    with pytest.raises(UserError, match="no column 'slant'; it has none"):
        built().samples(Examples(None, np.zeros(2, np.int32)))
    assert models.build(small.config("configs/digits_property.py")).keys() == {
        "encoder", "decoder", "property_encoder", "property_decoder",
    }  # fmt: skip
