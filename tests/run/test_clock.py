"""Estimated cycles of programs, summed by hand."""

# ruff: noqa: E501

import jax
import jax.numpy as jnp
import pytest

from lzn_jax.run import clock

# What compilers of TPUs write, with cycles and iterations of our own.
PROGRAM = """HloModule jit_update, entry_computation_layout={(f32[8]{0:T(256)})->f32[8]{0:T(256)}}

%add.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%product.2 (p: bf16[8]) -> f32[8] {
  %p = bf16[8]{0:T(256)(2,1)} parameter(0)
  ROOT %product = f32[8]{0} convolution(%p, %p), dim_labels=bf_io->bf, metadata={op_name="inner"}
}

%moved.3 (p: f32[8]) -> f32[8] {
  ROOT %moved = f32[8] transpose(%p), dimensions={0}
}

%scaled.4 (p: f32[8]) -> f32[8] {
  ROOT %scaled = f32[8] multiply(%p, %p)
}

%body.5 (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %first = (f32[8]{0:T(256)S(1)}, f32[8]) fusion(%state), kind=kOutput, calls=%product.2, metadata={op_name="jit(update)/jvp(image_encoder)/ResNet/conv"}, backend_config={"window_config":{"estimated_cycles":"100","iteration_bounds":["1"]}}
  ROOT %next = (s32[], f32[8]) tuple(%first)
}

%condition.6 (state: (s32[], f32[8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(7)
  %state = (s32[], f32[8]) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%number, %bound), direction=LT
}

%body.7 (state: f32[8]) -> f32[8] {
  ROOT %inner = f32[8] fusion(%state), kind=kLoop, calls=%scaled.4, metadata={op_name="jit(update)/transpose(jvp(alignment))/zoning/mul"}, backend_config={"estimated_cycles":"10"}
}

%condition.8 (state: f32[8]) -> pred[] {
  %bound = s32[] constant(5)
  ROOT %any = pred[] compare(%state, %bound), direction=GT
}

ENTRY %main.9 (p: f32[8]) -> f32[8] {
  %p = f32[8]{0:T(256)} parameter(0)
  %scan = (s32[], f32[8]) while(%p), condition=%condition.6, body=%body.5
  %known = f32[8] while(%scan), condition=%condition.8, body=%body.7, backend_config={"known_trip_count":{"n":"3"}}
  %unknown = f32[8] while(%known), condition=%condition.8, body=%body.7
  %norm = f32[8] fusion(%unknown), kind=kLoop, calls=%scaled.4, metadata={op_name="jit(update)/jvp(image_decoder)/norm/mul"}, backend_config={"estimated_cycles":"20"}
  %copied = f32[8] fusion(%norm), kind=kLoop, calls=%moved.3, metadata={op_name="jit(update)/jvp(text_decoder)/transpose"}, backend_config={"estimated_cycles":"30"}
  %adam = f32[8] fusion(%copied), kind=kLoop, calls=%scaled.4, metadata={op_name="jit(update)/mul"}, backend_config={"estimated_cycles":"40"}
  %all = f32[8] all-reduce(%adam), to_apply=%add.1, backend_config={"estimated_cycles":"50"}
  ROOT %sorted = f32[8] sort(%all), to_apply=%add.1
}
"""


def test_cycles_are_summed_by_part_and_kind_times_iterations():
    found = clock.estimate(clock.parse(PROGRAM))
    assert found.cycles == {
        ("image encoder", "products"): 700,
        ("alignment", "elementwise"): 3 * 10 + 10,
        ("image decoder", "normalisation"): 20,
        ("text decoder", "copies"): 30,
        ("optimizer", "elementwise"): 40,
        ("collectives", "all-reduce"): 50,
    }
    assert found.loops == 1
    assert found.unknown == {"sort": 1, "compare": 7 + 3 + 1}


def test_a_program_of_a_cpu_has_no_estimate():
    def function(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, None, length=3)[0]

    compiled = jax.jit(function).lower(jnp.eye(64)).compile()
    found = clock.estimate(clock.parse(compiled.as_text()))
    assert found.cycles == {}
    assert sum(found.unknown.values()) > 0


@pytest.mark.parametrize(
    ("kind", "rate"),
    [("TPU v5 lite", 1.5e9), ("TPU v5", 1.75e9), ("TPU v4", 1.05e9), ("NVIDIA H100", None)],
)
def test_chips_have_a_clock(kind, rate):
    assert clock.cycles_per_second(kind) == rate
