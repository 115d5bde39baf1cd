"""Matrix products in the precision that a solver asks for.

Logits and softmax are float32 in every mode. On CPU the modes cost more, not less: there they
show the error that an accelerator would make.
"""

import jax
import jax.numpy as jnp

FULL = "float32"
PRECISIONS = (FULL, "tensorfloat32", "bfloat16_3x", "bfloat16")


def matmul(a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
    """a @ b for float32 matrices; float64 ones are always multiplied as they are."""
    if precision == FULL or a.dtype == jnp.float64:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    if precision == "tensorfloat32":
        return jax.lax.platform_dependent(
            a, b, cuda=_tensorfloat32, default=_rounded_to_tensorfloat32
        )
    a_high, b_high = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    product = _bfloat16(a_high, b_high)
    if precision == "bfloat16_3x":
        a_low = (a - a_high.astype(a.dtype)).astype(jnp.bfloat16)
        b_low = (b - b_high.astype(b.dtype)).astype(jnp.bfloat16)
        product += _bfloat16(a_high, b_low) + _bfloat16(a_low, b_high)
    return product


def _bfloat16(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _tensorfloat32(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.DotAlgorithmPreset.TF32_TF32_F32)


def _rounded_to_tensorfloat32(a: jax.Array, b: jax.Array) -> jax.Array:
    a, b = (jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10) for x in (a, b))
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
