"""Weight files that are damaged, hostile or not what they seem: a line each, never a crash or a hang."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from expressnet_jax.checkpoint import weight_files, weight_import
from expressnet_jax.checkpoint.weight_files import WeightsError
from expressnet_jax.config import Preprocess
from expressnet_jax.config import files as config_files
from expressnet_jax.models import canonical, expressnet
from tests.conftest import TINY

CONFIG = config_files.load(TINY)
LIMIT = 1 << 20


def refused(path, limit=LIMIT):
    """The one line with which a file is refused."""
    with pytest.raises(WeightsError) as caught:
        weight_files.read(path, limit)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 700 and str(path) in line
    return line


@functools.cache
def network():
    return expressnet.create(CONFIG)


@functools.cache
def weights():
    return canonical.to_canonical(network())


# Any file


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"),
    (b"garbage" * 99, "neither safetensors nor HDF5"),
    (b"PK\x03\x04" + bytes(99), "nothing is unpickled"),
    (b"\x80\x02cos\nsystem\n", "nothing is unpickled"),
    (b"\x89HDF\r\n\x1a\n", "damaged"),
    (b"\x89HDF\r\n\x1a\n" + bytes(2000), "damaged"),
    (b"\x02\0\0\0\0\0\0\0{}", "no weights"),
    (b"\xff\xff\xff\x7f\0\0\0\0{", "header"),
    (b"\x09\0\0\0\0\0\0\0{\"a\":[1]}", "no safetensors file"),
])  # fmt: skip
def test_what_is_no_weight_file(tmp_path, content, words):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(path))) as caught:
        weight_import.load(path, CONFIG)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    assert "No such file" in refused(tmp_path / "nothing")
    assert "is no file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refused(tmp_path / "pipe")


# Safetensors


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_our_names_come_back_in_any_floating_point(tmp_path, dtype):
    stored = {name: value.astype(dtype) for name, value in weights().items()}
    save_file(stored, path := tmp_path / "w.safetensors")
    imported = weight_import.load(path, CONFIG)
    model = expressnet.create(CONFIG, seed=1)
    report = weight_import.apply(model, imported)
    assert imported.kind == "expressnet safetensors" and not report.left and not report.ignored
    for name, value in canonical.to_canonical(model).items():
        np.testing.assert_array_equal(value, stored[name].astype(np.float32), err_msg=name)


@pytest.mark.parametrize("value", [np.float32("nan"), np.float32("inf"), np.float64(1e39)])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    save_file({"head/bias": np.full(3, value)}, path := tmp_path / "w.safetensors")
    assert "head/bias has values that are not finite" in refused(path)
    with h5py.File(path := tmp_path / "w.h5", "w") as file:
        file["head/bias"] = np.full(3, value)
    assert "head/bias has values that are not finite" in refused(path)


def test_more_than_the_network_could_hold_is_not_read(tmp_path):
    save_file({"head/kernel": np.zeros((600, 600), np.float16)}, path := tmp_path / "w.safetensors")
    assert "holds 1 MB of weights, and at most 1 MB" in refused(path) and weight_files.read(path, 2 * LIMIT).arrays
    with h5py.File(path := tmp_path / "w.h5", "w") as file:
        file["head/kernel"] = np.zeros((600, 600), np.float16)
    assert "holds 1 MB" in refused(path) and weight_files.read(path, 2 * LIMIT).arrays
    limits = []
    read, weight_files.read = weight_files.read, lambda path, limit: limits.append(limit)
    try:
        with pytest.raises(AttributeError):
            weight_import.load(path, CONFIG)
    finally:
        weight_files.read = read
    assert limits == [8 * sum(canonical.sizes(network()).values()) + (64 << 20)]


def test_names_that_a_message_cannot_hold(tmp_path):
    for name in ("a\nb", "\x1b[2J", "x" * 2000):
        save_file({name: np.zeros(2, np.float32)}, path := tmp_path / "w.safetensors")
        assert "no plain text" in refused(path)


def exported(path, tensors=None, **about):
    """A file as `expressnet export` writes it: `about` in its metadata."""
    about = {"classes": list(CONFIG.data.classes), **about}
    save_file(tensors or weights(), path, {"format": "expressnet_jax", "about": json.dumps(about)})
    return path


def test_a_file_that_says_what_it_was_made_with(tmp_path):
    expects = {"color_order": "rgb", "normalize": "standard", "mean": 0.5, "std": 0.25, "antialias": 3, "more": 1}
    sections = {"preprocess": expects, "model": {"batchnorm_epsilon": 1e-5, "resnet": {"stem_pool": False}}}
    path = exported(tmp_path / "w.safetensors", **sections, moe={"top_k": 1})
    imported = weight_import.load(path, CONFIG)
    assert Preprocess(**imported.preprocessing) == Preprocess("rgb", "standard", 0.5, 0.25, False)
    line = weight_import.mismatch(imported, Preprocess("rgb", "unit"))
    assert "expects preprocess.normalize=standard, and this run has unit" in line
    assert "mean=0.5" in weight_import.mismatch(imported, Preprocess("rgb", "standard"))
    notes = "\n".join(imported.notes)
    assert "moe.top_k=1, and here it is 2" in notes and "stem_pool=False, and here it is True" in notes
    assert "epsilon of 1e-05" in notes
    gamma = imported.weights["resnet/conv1_bn/gamma"]
    np.testing.assert_allclose(gamma, np.sqrt((1 + 1e-3) / (1 + 1e-5)), rtol=1e-6)  # var and gamma are 1 at first


def test_outputs_are_put_in_the_order_of_the_configs_classes(tmp_path):
    classes = CONFIG.data.classes
    turned = dict(weights()) | {"head/bias": np.arange(len(classes), dtype=np.float32)}
    path = exported(tmp_path / "w.safetensors", turned, classes=list(classes[::-1]))
    imported = weight_import.load(path, CONFIG)
    np.testing.assert_array_equal(imported.weights["head/bias"], np.arange(len(classes))[::-1])
    np.testing.assert_array_equal(imported.weights["head/kernel"], weights()["head/kernel"][:, ::-1])
    path = exported(tmp_path / "w.safetensors", classes=["tired", *classes[1:]])
    with pytest.raises(WeightsError, match=r"its classes are \['tired'"):
        weight_import.apply(network(), weight_import.load(path, CONFIG))
    report = weight_import.apply(network(), weight_import.load(path, CONFIG), strict=False)
    assert report.left == ["head/bias", "head/kernel"]
    for odd in (3, [1, {}], ["a\nb"] * len(classes), [], None, {"a": 1}):
        path = exported(tmp_path / "w.safetensors", classes=odd)
        assert "\n" not in "".join(weight_import.load(path, CONFIG).doubts)


@pytest.mark.parametrize(
    "about", ["{", "[1]", "9" * 5000, "[" * 100_000, '{"model": 3, "preprocess": {"mean": "x\\ny"}}']
)
def test_odd_metadata_says_nothing(tmp_path, about):
    save_file(weights(), path := tmp_path / "w.safetensors", {"about": about})
    imported = weight_import.load(path, CONFIG)
    assert (imported.preprocessing, imported.notes, len(imported.weights)) == ({}, [], len(weights()))


def test_our_names_with_something_missing_extra_or_turned(tmp_path):
    before = canonical.digest(canonical.to_canonical(network()))
    for change, words in (
        ({"head/kernel": None}, "missing: head/kernel (32, 8)"),
        ({"resnet/stage9/kernel": np.zeros(2, np.float32)}, "extra: resnet/stage9/kernel"),
        (
            {"head/kernel": weights()["head/kernel"].T.copy()},
            "shape of head/kernel: (8, 32), transposed, the network has",
        ),
        ({"step": np.zeros(1, np.int32)}, "extra: step"),
    ):
        changed = {name: value for name, value in (weights() | change).items() if value is not None}
        save_file(changed, path := tmp_path / "w.safetensors")
        with pytest.raises(WeightsError, match="does not fit: ") as caught:
            weight_import.apply(network(), weight_import.load(path, CONFIG))
        assert words in str(caught.value)
        assert len(weight_import.apply(network(), weight_import.load(path, CONFIG), strict=False).loaded) >= 86
    assert canonical.digest(canonical.to_canonical(network())) == before
    save_file({"a/b": np.zeros(2, np.float32)}, path)
    with pytest.raises(WeightsError, match="neither this project's names"):
        weight_import.load(path, CONFIG)
    save_file({"head/kernel": np.zeros(2, np.float32)}, path)
    with pytest.raises(WeightsError, match="shape of head/kernel"):
        weight_import.apply(network(), weight_import.load(path, CONFIG), strict=False)


def mutated(content, number):
    """One to eight bytes changed, or the end cut off; the same for the same number."""
    rng = np.random.default_rng(number)
    data = bytearray(content)
    if number % 10 == 9:
        return bytes(data[: rng.integers(len(data))])
    for at in rng.integers(len(data), size=rng.integers(1, 9)):
        data[at] = rng.choice([0, 1, 255, rng.integers(256), data[at] ^ (1 << rng.integers(8))])
    return bytes(data)


def test_mutated_safetensors_give_the_same_tensors_or_a_line(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {f"head/{i}": rng.standard_normal((i + 1, 99)).astype(np.float32) for i in range(4)}
    content, path, read = save(tensors), tmp_path / "w.safetensors", 0
    start = 8 + int.from_bytes(content[:8], "little")
    for number in range(400):
        changed = mutated(content, number)
        path.write_bytes(changed)
        try:
            arrays = weight_files.read(path, LIMIT).arrays
        except WeightsError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        assert all(np.isfinite(value).all() for value in arrays.values())
        if changed[:start] == content[:start]:  # the values alone were changed, which no checksum guards
            assert {name: value.shape for name, value in arrays.items()} == {n: v.shape for n, v in tensors.items()}
    assert 50 < read < 350


# HDF5


def hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a", b"b"]
        for name, value in arrays.items():
            file[name] = value
    return path


def test_hdf5_arrays_and_lists(tmp_path):
    path = hdf5(tmp_path / "w.h5", a=np.arange(6.0).reshape(2, 3), b=np.float16(2.5))
    with h5py.File(path, "a") as file:
        group = file.create_group("g/h")
        group.attrs["weight_names"] = ["ü/kernel:0"]  # of variable length
        group.create_dataset("z", data=np.ones((5, 4), ">f4"), compression="gzip", shuffle=True, fletcher32=True)
        group.create_dataset("none", data=np.zeros((0, 3), np.float32))
        group["same"] = group["z"]
        file.create_group("optimizer_weights")["step"] = h5py.SoftLink("/nowhere")
    raw = weight_files.read(path, LIMIT)
    assert raw.lists == {"@layer_names": ["a", "b"], "g/h@weight_names": ["ü/kernel:0"]}
    assert {name: value.shape for name, value in raw.arrays.items()} == {
        "a": (2, 3), "b": (), "g/h/z": (5, 4), "g/h/none": (0, 3), "g/h/same": (5, 4),
    }  # fmt: skip
    np.testing.assert_array_equal(raw.arrays["a"], np.arange(6.0).reshape(2, 3))
    assert all(value.dtype == np.float32 for value in raw.arrays.values()) and (raw.arrays["g/h/z"] == 1).all()


def itself(file):
    file["g/again"] = file["g"]


def elsewhere(file):
    secret = Path(file.filename).with_name("secret")
    secret.write_bytes(bytes(80))
    file.create_dataset("g/x", (10,), "f8", external=[(str(secret), 0, 80)])


def virtual(file):
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2,))
    file.create_virtual_dataset("g/x", layout)


def bomb(file):
    """A block of 16 KB that unpacks to 3 GB."""
    made = file.create_dataset("g/x", (4096,), "f4", chunks=(4096,), compression="gzip")
    packer = zlib.compressobj()
    first, again = (packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    made.id.write_direct_chunk((0,), first + 191 * again)


@pytest.mark.parametrize(("change", "words"), [
    (lambda f: f["g"].update(x=h5py.ExternalLink("/etc/other.h5", "/x")), "g/x is a link"),
    (lambda f: f["g"].update(x=h5py.SoftLink("/a")), "g/x is a link"),
    (itself, "20000 names or 16 levels"),
    (elsewhere, "g/x are said to lie in another file"),
    (virtual, "g/x are said to lie in another file"),
    (lambda f: f.create_dataset("g/x", (1 << 40,), "f4", chunks=(1 << 10,)), "MB of weights"),
    (lambda f: f.create_dataset("g/x", (1 << 50, 1 << 50), "f4", chunks=(1, 1)), "MB of weights"),
    (lambda f: f.create_dataset("g/x", (4,), "f4", chunks=(1 << 28,), maxshape=(None,)), "MB of weights"),
    (bomb, "damaged"),
    (lambda f: f.create_dataset("g/x", (4,), "f4", compression="lzf"), "packed by filter 32000"),
    (lambda f: f.create_dataset("g/x", (4,), "i4", scaleoffset=0), "g/x holds no floating-point numbers"),
    (lambda f: f.create_dataset("g/x", (4,), "c8"), "g/x holds no floating-point numbers"),
    (lambda f: f.create_dataset("g/x", data=h5py.Empty("f4")), "g/x holds no floating-point numbers"),
    (lambda f: f.create_dataset("g/x", data="text"), "g/x holds no floating-point numbers"),
    (lambda f: f.update({"g/x": np.dtype("f4")}), "g/x is neither a group nor an array"),
    (lambda f: f.create_dataset("g/x\ny", (4,), "f4"), "no plain text"),
    (lambda f: f.attrs.update(weight_names=[1.0, 2.0]), "@weight_names is no list"),
    (lambda f: f.attrs.update(weight_names=np.zeros((200, 200), "S1")), "@weight_names is no list"),
    (lambda f: f.attrs.update(weight_names=np.array([b"x" * 2000])), "names of more than 1024"),
    (lambda f: f["g"].attrs.update(weight_names=["x" * 2000]), "no plain text"),
    (lambda f: f["g"].attrs.update(weight_names=[b"\xff\xfe"]), "no plain text"),
    (lambda f: f["g"].attrs.update(weight_names=np.array([b"\xff\xfe"])), "damaged (UnicodeDecodeError"),
])  # fmt: skip
def test_hostile_hdf5(tmp_path, change, words):
    path = hdf5(tmp_path / "w.h5", **{"a": np.ones(3), "g/b": np.ones(3)})
    with h5py.File(path, "a") as file:
        change(file)
    assert words in refused(path)


def test_truncated_hdf5(tmp_path):
    content = hdf5(tmp_path / "w.h5", a=np.ones((30, 30), np.float32)).read_bytes()
    for size in (9, 100, 1000, len(content) - 1):
        (path := tmp_path / "cut.h5").write_bytes(content[:size])
        assert "damaged" in refused(path)


@pytest.mark.parametrize(("program", "words"), [
    ("kill -SEGV $$", "the process that read it ended with SIGSEGV"),
    ("echo; exit 1", "ended with exit code 1"),
    ("exec sleep 60", "not read after 1 s"),
])  # fmt: skip
def test_a_reading_process_that_dies_or_hangs_is_a_line(tmp_path, monkeypatch, program, words):
    (script := tmp_path / "python").write_text(f"#!/bin/sh\n{program}\n")
    script.chmod(0o755)
    path = hdf5(tmp_path / "w.h5", a=np.ones(3))
    monkeypatch.setattr(weight_files.sys, "executable", str(script))
    monkeypatch.setattr(weight_files, "_SECONDS", 1)
    assert words in refused(path)


_FUZZ = """
import signal, sys
from pathlib import Path
from expressnet_jax.checkpoint import weight_files
from tests.unit.test_weight_files import LIMIT, mutated
folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
content, path = (folder / "w.h5").read_bytes(), folder / "mutated.h5"
for number in range(first, last):
    path.write_bytes(mutated(content, number))
    signal.alarm(5)
    try:
        list(weight_files._hdf5_parts(str(path), LIMIT))
        print("+", end="", flush=True)
    except Exception:
        print("-", end="", flush=True)
"""


def fuzz(folder, first, last):
    """How many mutations of folder/w.h5 were read and refused, and the numbers of those that ended the process."""
    told, died = "", []
    while first + len(told) + len(died) < last:
        start = first + len(told) + len(died)
        command = [sys.executable, "-c", _FUZZ, str(folder), str(start), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode <= 0, done.stderr
        told += done.stdout
        if done.returncode < 0:
            died.append(start + len(done.stdout))
    return told.count("+"), told.count("-"), died


def test_mutated_hdf5_is_read_or_refused(tmp_path, monkeypatch):
    """In one process, for speed; what ends that process, or loops in it, is read once more as users read it."""
    path = hdf5(tmp_path / "w.h5", **{"a": np.ones((3, 2), np.float32), "g/b": np.arange(4.0)})
    with h5py.File(path, "a") as file:
        file["g"].attrs["weight_names"] = ["b"]
        file.create_dataset("packed", data=np.ones(64, np.float32), compression="gzip", chunks=(16,))
    read, not_read, died = fuzz(tmp_path, 0, 400)
    assert read + not_read + len(died) == 400 and read > 20 < not_read and len(died) < 10
    monkeypatch.setattr(weight_files, "_CPU_SECONDS", 2)
    for number in died:
        (tmp_path / "died.h5").write_bytes(mutated(path.read_bytes(), number))
        assert "damaged" in refused(tmp_path / "died.h5")


def test_the_reading_process_needs_nothing_of_jax():
    code = "import sys, expressnet_jax.checkpoint.weight_files; print({'jax', 'flax', 'h5py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "set()"


def test_a_report_can_be_written_as_json(tmp_path):
    save_file(weights(), path := tmp_path / "w.safetensors")
    report = weight_import.apply(network(), weight_import.load(path, CONFIG, backbone=True))
    told = json.loads(json.dumps(dataclasses.asdict(report)))
    assert told["kind"] == "expressnet safetensors" and told["values"] == sum(
        value.size for name, value in weights().items() if name.startswith("resnet/")
    )
    assert "ignored" in report.describe().splitlines()[0] and len(told["left"]) + len(told["loaded"]) == len(weights())
