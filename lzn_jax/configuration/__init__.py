"""Experiment configs: their fields and defaults, reading, checking and display, without JAX."""

from lzn_jax.configuration.explaining import explain as explain
from lzn_jax.configuration.finding import overview as overview
from lzn_jax.configuration.finding import shipped as shipped
from lzn_jax.configuration.reading import CONFIG_FILE as CONFIG_FILE
from lzn_jax.configuration.reading import TOKENIZER_FILE as TOKENIZER_FILE
from lzn_jax.configuration.reading import blank as blank
from lzn_jax.configuration.reading import flatten as flatten
from lzn_jax.configuration.reading import load as load
from lzn_jax.configuration.reading import load_run as load_run
from lzn_jax.configuration.reading import nest as nest
from lzn_jax.configuration.reading import parse_json as parse_json
from lzn_jax.configuration.reading import sibling as sibling
from lzn_jax.configuration.reading import stored_values as stored_values
from lzn_jax.configuration.reading import to_json_dict as to_json_dict
from lzn_jax.configuration.schema import schema_of as schema_of
from lzn_jax.configuration.schema import with_defaults as with_defaults
from lzn_jax.errors import EXIT_DOES_NOT_FIT as EXIT_DOES_NOT_FIT
from lzn_jax.errors import EXIT_DONE as EXIT_DONE
from lzn_jax.errors import EXIT_FAILED as EXIT_FAILED
from lzn_jax.errors import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from lzn_jax.errors import EXIT_NON_FINITE as EXIT_NON_FINITE
from lzn_jax.errors import EXIT_RUN_AGAIN as EXIT_RUN_AGAIN
from lzn_jax.errors import EXIT_USER_ERROR as EXIT_USER_ERROR
from lzn_jax.errors import UserError as UserError
from lzn_jax.parts import Field as Field
