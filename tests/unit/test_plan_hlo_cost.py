"""Operations and bytes of programs: against XLA's own counter where it has one, and by hand where it has none."""

import jax
import jax.numpy as jnp
import pytest

from expressnet_jax.plan import hlo_cost


def program(*lines, more=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule jit_step\n{more}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n"


def layer(x, w, v):
    y = jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.einsum("bhwd,df->bhwf", y, v)


SHAPES = [(4, 17, 17, 5), (3, 3, 5, 8), (8, 6)]


@pytest.mark.parametrize(
    "function",
    [layer, jax.grad(lambda *given: layer(*given).sum(), (0, 1, 2)),
     lambda x, w, v: jax.lax.dynamic_slice(x, (1, 0, 0, 0), (2, 17, 17, 5)) + 1],
)  # fmt: skip
def test_a_cpu_program_is_counted_as_xla_counts_it(function):
    made = jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in SHAPES)).compile()
    own, text = made.cost_analysis(), made.as_text()
    elementwise = 2 * 4 * 17 * 17 * 5  # which we leave out
    assert hlo_cost.flops(text) == pytest.approx(own["flops"], abs=elementwise)
    assert hlo_cost.moved(text) == pytest.approx(own["bytes accessed"], rel=0.001)


def taps(pixels, kernel, stride, before):
    """Pairs of an output pixel and a tap that do not lie on padding, along one axis."""
    out = -(-pixels // stride)
    return sum(0 <= o * stride + k - before < pixels for o in range(out) for k in range(kernel))


#: A stride of 2, 9 pixels to 5, a kernel of 3, padded by 1 before and after; 4 pictures, 6 channels to 8.
PICTURE, KERNEL, OUT = "bf16[4,9,9,6]{3,2,1,0}", "bf16[8,3,3,6]{3,2,1,0}", "bf16[4,5,5,8]{3,2,1,0}"
WINDOW = "window={size=3x3 pad=1_1x1_1 stride=2x2}, dim_labels=b01f_o01i->b01f"


@pytest.mark.parametrize(
    ("result", "operands", "name"),
    [(OUT, (PICTURE, KERNEL), "Forward"), (OUT, (PICTURE, KERNEL), "BiasActivationForward"),
     (PICTURE, (OUT, KERNEL), "BackwardInput"), (KERNEL, (PICTURE, OUT), "BackwardFilter")],
)  # fmt: skip
def test_calls_of_cudnn_are_counted_by_hand(result, operands, name):
    text = program(
        f"%a = {operands[0]} parameter(0)", f"%b = {operands[1]} parameter(1)",
        f'%c = ({result}, u8[0]{{0}}) custom-call(%a, %b), {WINDOW}, custom_call_target="__cudnn$conv{name}"',
        f"%d = {result} get-tuple-element(%c), index=0",
    )  # fmt: skip
    pairs = taps(9, 3, 2, 1) ** 2
    assert pairs == 13**2  # of 15 at each axis one lies on padding at either end
    assert hlo_cost.flops(text) == 2 * pairs * 4 * 6 * 8
    assert hlo_cost.moved(text) == 2 * (4 * 9 * 9 * 6 + 8 * 3 * 3 * 6 + 4 * 5 * 5 * 8)


def test_a_convolution_in_groups_has_only_its_group_s_channels():
    text = program(
        "%a = f32[2,7,7,6] parameter(0)", "%b = f32[12,3,3,1] parameter(1)",
        "%c = (f32[2,5,5,12], u8[0]) custom-call(%a, %b), window={size=3x3}, dim_labels=b01f_o01i->b01f, "
        'feature_group_count=6, custom_call_target="__cudnn$convForward"',
    )  # fmt: skip
    assert hlo_cost.flops(text) == 2 * (5 * 3) ** 2 * 2 * 12 * 1


@pytest.mark.parametrize("name", ["__cublas$gemm", "__cublas$lt$matmul"])
def test_calls_of_cublas_are_counted_by_hand(name):
    numbers = '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["2"]}'
    text = program(
        "%a = bf16[3,5,7]{2,1,0} parameter(0)", "%b = bf16[3,11,5]{2,1,0} parameter(1)",
        f'%c = (bf16[3,7,11]{{2,1,0}}, s8[4096]{{0}}) custom-call(%a, %b), custom_call_target="{name}", '
        f"backend_config={{{numbers}}}",
    )  # fmt: skip
    assert hlo_cost.flops(text) == 2 * 3 * 5 * 7 * 11


LOOP = """
%body (p: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %p = (s32[], f32[4,4]) parameter(0)
  %x = f32[4,4]{1,0} get-tuple-element(%p), index=1
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
%part (whole: f32[100,8], at: s32[]) -> f32[1,8] {
  %whole = f32[100,8]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %s = f32[1,8]{1,0} dynamic-slice(%whole, %at, %at), dynamic_slice_sizes={1,8}
  ROOT %t = f32[1,8]{1,0} add(%s, %s)
}
"""


def test_what_is_in_a_loop_counts_each_of_its_turns():
    turns = 'backend_config={"known_trip_count":{"n":"5"}}'
    text = program(f"%w = (s32[], f32[4,4]) while(%i), condition=%c, body=%body, {turns}", more=LOOP)
    assert hlo_cost.flops(text) == 5 * 2 * 4**3
    assert hlo_cost.moved(text) == 5 * 3 * 64


def test_a_fusion_reads_only_the_part_that_it_takes():
    text = program(
        "%all = f32[100,8]{1,0} parameter(0)", "%n = s32[] parameter(1)",
        "%f = f32[1,8]{1,0} fusion(%all, %n), kind=kLoop, calls=%part",
        more=LOOP,
    )  # fmt: skip
    assert hlo_cost.moved(text) == 32 + 4 + 32


def test_names_shapes_and_turns_of_tuples_move_nothing():
    text = program(
        "%a = f32[8] parameter(0)", "%b = (f32[8], f32[8]) tuple(%a, %a)",
        "%c = f32[8] get-tuple-element(%b), index=0", "ROOT %d = f32[2,4] bitcast(%c)",
    )  # fmt: skip
    assert hlo_cost.moved(text) == hlo_cost.flops(text) == 0
