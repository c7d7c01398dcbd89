"""Collectives read from programs written by hand, whose groups and axes are known by hand."""

import pytest

from expressnet_jax.plan import hlo

MESH = {"data": 2, "expert": 4}  # devices 0 1 2 3 / 4 5 6 7


def program(*lines, more=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule jit_step\n{more}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    ("groups", "axis", "devices"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", "expert", 4),
        ("{{0,4},{1,5},{2,6},{3,7}}", "data", 2),
        ("{{0,1,2,3,4,5,6,7}}", "data+expert", 8),
        ("{}", "data+expert", 8),
        ("{{0,1},{2,3},{4,5},{6,7}}", "part of expert", 2),
        ("[2,4]<=[8]", "expert", 4),
        ("[4,2]<=[2,4]T(1,0)", "data", 2),
        ("[1,8]<=[8]", "data+expert", 8),
        ("[4,2]<=[8]", "part of expert", 2),
        ("mesh['a'=8] {'a'}", "data+expert", 8),
        ("mesh['a'=2,'b'=4] {'b'}", "expert", 4),
        ("mesh['a'=2,'b'=4] {'a'}", "data", 2),
        ("mesh['a'=2,'b'=4] {'a','b'}", "data+expert", 8),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", "data", 2),
        ("mesh['a'=8] {'a':(2)4}", "expert", 4),
        ("mesh['a'=8] {'a':(1)2}", "data", 2),
    ],
)
def test_replica_groups_name_the_axes_of_the_mesh(groups, axis, devices):
    line = f"%r = f32[10]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add"
    (found,) = hlo.collectives(program(line), MESH)
    assert (found.kind, found.axis, found.devices, found.bytes) == ("all-reduce", axis, devices, 40)


@pytest.mark.parametrize("groups", ["{{0},{1},{2},{3},{4},{5},{6},{7}}", "[8,1]<=[8]"])
def test_a_group_of_one_device_sends_nothing(groups):
    assert hlo.collectives(program(f"%r = f32[10]{{0}} all-reduce(%p), replica_groups={groups}"), MESH) == []


@pytest.mark.parametrize(
    ("line", "kind", "arrays", "size"),
    [
        ("%a = (f32[3,5]{1,0}, /*index=1*/bf16[7]{0:T(256)(128)(2,1)S(1)}, f32[]) all-reduce(%x, %y, %z), "
         "replica_groups=[2,4]<=[8], to_apply=%add", "all-reduce", 3, 60 + 14 + 4),
        ("%a = c64[2,3]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-gather", 1, 48),
        ("%a = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}",
         "all-gather", 1, 32),
        ("%a = ((f32[2], f32[1,2]), (f32[8], f32[4,2])) all-gather-start(%x, %y), replica_groups=[2,4]<=[8]",
         "all-gather", 2, 64),
        ("%a = ((f32[2]), f32[8]) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}",
         "all-gather", 1, 32),
        ("%a = ((f32[20]{0}), f32[5]{0}, u32[], u32[]) reduce-scatter-start(%x), replica_groups=[2,4]<=[8]",
         "reduce-scatter", 1, 80),
        ("%a = ((f32[20], bf16[8]), (f32[5], bf16[2])) reduce-scatter-start(%x, %y), replica_groups=[2,4]<=[8]",
         "reduce-scatter", 2, 80 + 16),
        ("%a = ((c64[6]{0:T(256)}), c64[6]{0:T(256)}) all-to-all-start(%x), replica_groups=[2,4]<=[8]", "all-to-all",
         1, 48),
        ("%a = ((f32[3], f32[5]), (f32[3], f32[5])) all-reduce-start(%x, %y), replica_groups=[2,4]<=[8]", "all-reduce",
         2, 32),
        ("%a = (f32[3], f32[5]) all-reduce-start(%x, %y), replica_groups=[2,4]<=[8], to_apply=%add",
         "all-reduce", 2, 32),
        ("%a = ((f32[6]), f32[6], u32[]) collective-broadcast-start(%x), replica_groups=[2,4]<=[8]",
         "collective-broadcast", 1, 24),
        ("%a = ((f32[6], s8[4]), (f32[6], s8[4])) collective-permute-start(%x, %y), source_target_pairs={{0,1},{1,0}}",
         "collective-permute", 2, 28),
        ("%a = f32[10]{0} all-reduce-start(%x), replica_groups=[2,4]<=[8], to_apply=%add", "all-reduce", 1, 40),
        # A reduce-scatter starts with four times what it ends with.
        ("ROOT %a = f32[5]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8], dimensions={0}", "reduce-scatter", 1, 80),
        ("%a = (f32[1,6]{1,0}, f32[1,6]{1,0}, f32[1,6]{1,0}, f32[1,6]{1,0}) all-to-all(%x, %y, %z, %w), "
         "replica_groups={{0,1,2,3},{4,5,6,7}}", "all-to-all", 4, 96),
        ("%a = (s32[6], s32[6], u32[]{:S(2)}, u32[]) collective-permute-start(%x), "
         "source_target_pairs={{0,1},{1,2},{2,3},{3,0}}", "collective-permute", 1, 24),
        ("%a = pred[9] collective-permute(%x), source_target_pairs={{0,1},{1,0}}", "collective-permute", 1, 9),
    ],
)  # fmt: skip
def test_the_bytes_of_every_kind(line, kind, arrays, size):
    (found,) = hlo.collectives(program(line), MESH)
    assert (found.kind, found.axis, found.arrays, found.bytes) == (kind, "expert", arrays, size)


def test_done_and_other_instructions_count_nothing():
    lines = [
        "%a = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}",
        "%b = f32[8]{0} all-gather-done(%a)",
        'ROOT %c = f32[8]{0} add(%b, %b), metadata={op_name="jit(step)/all-reduce(x)"}',
    ]
    assert [(one.kind, one.bytes) for one in hlo.collectives(program(*lines), MESH)] == [("all-gather", 32)]


def test_an_asynchronous_wrapper_is_counted_by_what_it_calls_and_once():
    wrapped = """%wrapped (s: f32[20]) -> f32[5] {
  ROOT %r = f32[5]{0} reduce-scatter(%s), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}
"""
    shape = "((f32[20]{0}), f32[5]{0}, u32[])"
    lines = [
        f"%a = {shape} async-start(%p), calls=%wrapped",
        f"%b = {shape} async-update(%a), calls=%wrapped",
        "ROOT %c = f32[5]{0} async-done(%b), calls=%wrapped",
    ]
    (found,) = hlo.collectives(program(*lines, more=wrapped), MESH)
    assert (found.kind, found.count, found.bytes) == ("reduce-scatter", 1, 80)


BODY = """%body (s: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-reduce(%s), replica_groups=[2,4]<=[8], to_apply=%add
}
"""


@pytest.mark.parametrize(
    ("known", "operations", "size", "loop"),
    [
        (
            ', backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}',
            5,
            160,
            "5 turns",
        ),
        ("", 1, 32, "unknown number of turns"),
    ],
)
def test_a_loop_executes_its_collectives_once_a_turn(known, operations, size, loop):
    line = f"ROOT %w = f32[8]{{0}} while(%p), condition=%cond, body=%body{known}"
    (found,) = hlo.collectives(program(line, more=BODY), MESH)
    assert (found.count, found.bytes, found.loop) == (operations, size, loop)


def test_loops_in_loops_multiply():
    outer = """%outer (s: f32[8]) -> f32[8] {
  ROOT %w = f32[8]{0} while(%s), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""
    line = 'ROOT %v = f32[8]{0} while(%p), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"2"}}'
    (found,) = hlo.collectives(program(line, more=BODY + outer), MESH)
    assert (found.count, found.bytes) == (6, 192)


def test_a_collective_that_a_tpu_spreads_over_fusions_is_one():
    """Start, two pieces beside other work, and done: each names the same channel."""
    gather = "%g = f32[8]{0} all-gather(%s), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}"
    parts = "".join(
        f"%part{i} (s: f32[2]) -> f32[8] {{\n  {gather}\n  ROOT %c = f32[8] {last}\n}}\n"
        for i, last in enumerate(
            ['custom-call(%g), custom_call_target="AsyncCollectiveStart"', "negate(%g)", "negate(%g)",
             'custom-call(%g), custom_call_target="AsyncCollectiveDone"']
        )
    )  # fmt: skip
    lines = [f"%f{i} = f32[8]{{0}} fusion(%p), kind=kCustom, calls=%part{i}" for i in range(4)]
    (found,) = hlo.collectives(program(*lines, more=parts), MESH)
    assert (found.count, found.bytes, found.kind) == (1, 32, "all-gather")


def test_collectives_of_shard_map_share_a_channel_and_are_counted_each():
    """As compiled for a TPU: one is spread over fusions, two are not, and a fourth is spread in a chain of its own."""
    gather = "%g = f32[8]{0} all-gather(%s), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}"
    parts = "".join(
        f'%part{i} (s: f32[2]) -> f32[8] {{\n  {gather}, frontend_attributes={{chain_id="{chain}"}}\n'
        f'  ROOT %c = f32[8] custom-call(%g), custom_call_target="AsyncCollective{last}"\n}}\n'
        for i, (chain, last) in enumerate([("1", "Start"), ("1", "Done"), ("2", "Start"), ("2", "Done")])
    )
    lines = [f"%f{i} = f32[8]{{0}} fusion(%p), kind=kCustom, calls=%part{i}" for i in range(4)]
    plain = [gather.replace("%g", f"%plain{i}").replace("%s", "%p") for i in range(2)]
    found = hlo.collectives(program(*lines, *plain, more=parts), MESH)
    assert (len(found), sum(one.bytes for one in found)) == (4, 4 * 32)


def test_what_a_chip_hands_over_for_other_slices_is_a_transfer():
    line = (
        "%s = (f32[1,4,128]{2,1,0:T(4,128)}, u32[], token[]) send(%x, %after), channel_id=4, is_host_transfer=true, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}'
    )
    other = "%t = (f32[8]{0}, u32[], token[]) send(%x, %after), channel_id=5"
    (found,) = hlo.collectives(program(line, other), MESH)
    assert (found.kind, found.axis, found.bytes) == ("transfer", "between slices", 4 * 512)


def test_a_sum_of_which_each_keeps_a_part_is_a_reduce_scatter():
    fused = """%all-reduce-scatter.3 (s: f32[8]) -> f32[2] {
  %r = f32[8]{0} all-reduce(%s), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %d = f32[2]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={2}
}
"""
    line = "ROOT %f = f32[2]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3"
    (found,) = hlo.collectives(program(line, more=fused), MESH)
    assert (found.kind, found.bytes, found.devices) == ("reduce-scatter", 32, 4)


def test_the_table_adds_up_rows_of_one_kind_and_axis():
    sum_over = "f32[8]{{0}} all-reduce(%p), replica_groups={}, to_apply=%add"
    lines = [f"%a = {sum_over.format('[2,4]<=[8]')}", f"%b = {sum_over.format('[2,4]<=[8]')}",
             f"%c = {sum_over.format('[1,8]<=[8]')}"]  # fmt: skip
    rows = hlo.table(hlo.collectives(program(*lines), MESH))
    assert [(row["axis"], row["count"], row["bytes"]) for row in rows] == [("expert", 2, 64), ("data+expert", 1, 32)]


@pytest.mark.parametrize(
    ("kind", "size"),
    [("all-reduce", 150.0), ("all-gather", 75.0), ("reduce-scatter", 75.0), ("all-to-all", 75.0),
     ("collective-permute", 100.0)],
)  # fmt: skip
def test_what_four_devices_send_of_a_hundred_bytes(kind, size):
    assert hlo.sent(kind, 100, 4) == pytest.approx(size)
