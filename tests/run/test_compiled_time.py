"""Estimated cycles of programs, summed by hand."""

# ruff: noqa: E501

import jax
import jax.numpy as jnp
import pytest

from lzn_jax.run import compiled_time, costs

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


# A GPU's: the peak takes a second for 100 operations, the memory a second for 100 bytes.
ON_A_GPU = """HloModule jit_update

%dot.1 (a: f32[8,4], b: f32[4,2]) -> f32[8,2] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4,2]{1,0} parameter(1)
  ROOT %dot = f32[8,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%again.5 (a: f32[8,4], b: f32[4,2]) -> f32[8,2] {
  %a.1 = f32[8,4]{1,0} parameter(0)
  %b.1 = f32[4,2]{1,0} parameter(1)
  ROOT %nested = f32[8,2]{1,0} fusion(%a.1, %b.1), kind=kLoop, calls=%dot.1
}

%body.6 (a: f32[8,4]) -> f32[8,2] {
  %a.2 = f32[8,4]{1,0} parameter(0)
  %b.2 = f32[4,2]{1,0} parameter(1)
  ROOT %in_a_loop = f32[8,2]{1,0} fusion(%a.2, %b.2), kind=kCustom, calls=%again.5, metadata={op_name="jit(f)/jvp(text_decoder)/dot"}
}

%condition.7 (a: f32[8,4]) -> pred[] {
  ROOT %true = pred[] constant(true)
}

%row.2 (all: f32[64,4], at: s32[]) -> f32[1,4] {
  %all = f32[64,4]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %same = f32[64,4]{1,0} bitcast(%all)
  ROOT %row = f32[1,4]{1,0} dynamic-slice(%same, %at, %at), dynamic_slice_sizes={1,4}
}

%put.3 (all: f32[64,4], new: f32[1,4], at: s32[]) -> f32[64,4] {
  %all = f32[64,4]{1,0} parameter(0)
  %new = f32[1,4]{1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %put = f32[64,4]{1,0} dynamic-update-slice(%all, %new, %at, %at)
}

ENTRY %main.4 (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4,2]{1,0} parameter(1)
  %all = f32[64,4]{1,0} parameter(2)
  %at = s32[] parameter(3)
  %image = bf16[1,6,6,3]{3,2,1,0} parameter(4)
  %kernel = bf16[5,3,3,3]{3,2,1,0} parameter(5)
  %made = bf16[1,4,4,5]{3,2,1,0} parameter(6)
  %loop = f32[8,2]{1,0} while(%a), condition=%condition.7, body=%body.6, backend_config={"known_trip_count":{"n":"3"}}
  %product = f32[8,2]{1,0} fusion(%a, %b), kind=kCustom, calls=%dot.1, metadata={op_name="jit(f)/jvp(image_encoder)/dot"}
  %library = (f32[8,2]{1,0}, s8[99999]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(f)/jvp(text_encoder)/dot"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %convolved = (bf16[1,4,4,5]{3,2,1,0}, u8[0]{0}) custom-call(%image, %kernel), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/jvp(image_decoder)/conv"}
  %to_image = (bf16[1,6,6,3]{3,2,1,0}, u8[0]{0}) custom-call(%made, %kernel), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput", metadata={op_name="jit(f)/jvp(image_decoder)/conv"}
  %to_kernel = (bf16[5,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%image, %made), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter", metadata={op_name="jit(f)/jvp(image_decoder)/conv"}
  %row.5 = f32[1,4]{1,0} fusion(%all, %at), kind=kLoop, calls=%row.2, metadata={op_name="jit(f)/jvp(alignment)/row"}
  %put.5 = f32[64,4]{1,0} fusion(%all, %row.5, %at), kind=kLoop, calls=%put.3, metadata={op_name="jit(f)/jvp(zoning)/put"}
  ROOT %turned = f32[4,8]{0,1} transpose(%a), dimensions={1,0}
}
"""


def test_cycles_are_summed_by_part_and_kind_times_iterations():
    found = compiled_time.estimate(compiled_time.parse(PROGRAM), costs.Chip(1.0, 16.0, 2.0))
    assert found.seconds == {
        ("image encoder", "products"): 350,
        ("alignment", "elementwise"): (3 * 10 + 10) / 2,
        ("image decoder", "normalisation"): 10,
        ("text decoder", "copies"): 15,
        ("optimizer", "elementwise"): 20,
        ("collectives", "all-reduce"): 25,
    }
    assert found.cycles == 880
    assert found.loops == 1
    assert found.unknown == {"sort": 1, "compare": 7 + 3 + 1}
    # The sort reads and writes eight numbers; comparisons read one or two and write a byte.
    assert found.bound == pytest.approx((64 + 7 * 9 + (3 + 1) * 5) / 16)


def test_a_gpus_time_is_bounded_by_operations_and_bytes():
    found = compiled_time.estimate(compiled_time.parse(ON_A_GPU), costs.Chip(100.0, 100.0))
    convolution = 2 * 4 * 4 * 5 * 27 / 100
    assert found.seconds == {
        ("image encoder", "products"): (32 + 8 + 16) * 4 / 100,  # bytes; operations take 1.28
        ("text encoder", "products"): (32 + 8 + 16) * 4 / 100,
        ("text decoder", "products"): pytest.approx(3 * (32 + 8 + 16) * 4 / 100),
        ("image decoder", "products"): pytest.approx(3 * convolution),
        ("alignment", "copies"): pytest.approx((16 + 16 + 4) / 100),
        ("zoning", "copies"): pytest.approx((16 + 16 + 4) / 100),
        ("other", "copies"): 2 * 128 / 100,
    }
    assert found.cycles is None
    fast = compiled_time.estimate(compiled_time.parse(ON_A_GPU), costs.Chip(100.0, 1e9))
    assert fast.seconds["image encoder", "products"] == 2 * 8 * 2 * 4 / 100
    assert fast.seconds["text encoder", "products"] == 2 * 8 * 2 * 4 / 100
    assert fast.seconds["text decoder", "products"] == pytest.approx(3 * 2 * 8 * 2 * 4 / 100)


def test_a_program_of_a_cpu_has_no_estimate():
    def function(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, None, length=3)[0]

    compiled = jax.jit(function).lower(jnp.eye(64)).compile()
    found = compiled_time.estimate(
        compiled_time.parse(compiled.as_text()), costs.Chip(1.0, 1.0, 1.0)
    )
    assert found.seconds == {}
    assert sum(found.unknown.values()) > 0
