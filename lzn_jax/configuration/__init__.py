"""Experiment configs: every field, read and checked without JAX."""

from lzn_jax.configuration.schema import EXIT_RUN_AGAIN as EXIT_RUN_AGAIN
from lzn_jax.configuration.schema import EXIT_USER_ERROR as EXIT_USER_ERROR
from lzn_jax.configuration.schema import PRECISIONS as PRECISIONS
from lzn_jax.configuration.schema import SOLVERS as SOLVERS
from lzn_jax.configuration.schema import UserError as UserError
from lzn_jax.configuration.schema import load as load
from lzn_jax.configuration.schema import load_json as load_json
from lzn_jax.configuration.schema import schema_of as schema_of
from lzn_jax.configuration.schema import sibling as sibling
from lzn_jax.configuration.schema import to_json_dict as to_json_dict
from lzn_jax.configuration.schema import with_defaults as with_defaults
