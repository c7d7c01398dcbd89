"""Weight files from elsewhere, read without trust: names -> float32 arrays. Safetensors and HDF5; nothing is unpickled.

HDF5 is read in a process of its own, whose program is this file: libhdf5 has open reports of files that make it crash,
loop or write out of bounds, and a compressed block can grow to any size. That process has bounded memory and time,
cannot write files, and loads no plugins; for its sake this file imports neither jax nor any other module of ours.
"""

import contextlib
import itertools
import json
import math
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_SECONDS = 120  # for one HDF5 file, on a slow disk
_CPU_SECONDS = 20  # likewise; the published network takes one, a damaged list of names can loop for ever
_MAX_NAMES = 20_000  # of tensors or links; a Keras file of the published network has some 900
_MAX_NAME = 1024  # characters
_MAX_DEPTH = 16
_MAX_HEADER = 16 << 20  # bytes, of a safetensors file
_REFUSED = 3  # exit code of the reading process: what is wrong is its last line on standard error
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes, by safetensors' names
#: Attributes of groups that Keras writes: lists of names, in order, and what wrote the file.
_ATTRIBUTES = ("layer_names", "weight_names", "backend", "keras_version")
_HARMLESS_FILTERS = (1, 2, 3)  # deflate, shuffle, fletcher32: parts of libhdf5 itself


class WeightsError(Exception):
    """A weight file that cannot be read or does not fit; the message is one line."""

    exit_code = 1  # as of data_pipelines.common.errors.Failure, which this file does not import


@dataclass(frozen=True)
class Raw:
    """What a file holds, checked but not understood."""

    path: Path
    format: str  # hdf5, safetensors
    arrays: dict[str, np.ndarray]  # float32, all values finite
    others: list[str] = field(default_factory=list)  # names of tensors that hold no floating-point numbers
    lists: dict[str, list[str]] = field(default_factory=dict)  # HDF5: attributes, as "path/of/group@attribute"
    metadata: dict[str, str] = field(default_factory=dict)  # safetensors: texts kept beside the tensors
    kinds: frozenset[str] = frozenset()  # safetensors: what the tensors are stored in, as "F32"

    @property
    def about(self) -> dict[str, Any] | None:
        """What `expressnet export` wrote beside the weights; None for a file that says nothing."""
        try:
            found = json.loads(self.metadata.get("about", "null"))
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


@dataclass(frozen=True)
class Imported:
    """Weights by canonical name, and what is to be known about them."""

    path: Path
    kind: str  # vggface2, authors, expressnet safetensors, torchvision
    weights: dict[str, np.ndarray]  # float32
    sources: dict[str, str]  # canonical name -> name in the file
    epsilon: float = 0.0  # of BatchNorm, that the weights were trained with; 0: that of the config
    preprocessing: dict[str, Any] = field(default_factory=dict)  # fields of config.Preprocess that the weights expect
    ignored: list[str] = field(default_factory=list)  # names in the file that are rightly not used
    unknown: list[str] = field(default_factory=list)  # names in the file that mean nothing here
    doubts: list[str] = field(default_factory=list)  # why the same weights make another network: strict refuses these
    notes: list[str] = field(default_factory=list)
    part: str = ""  # prefix of the names that are asked for: "" for all, "resnet/" for the backbone


def read(path: Path, limit: int) -> Raw:
    """Reads a safetensors or HDF5 file of at most `limit` bytes of weights. Raises WeightsError."""
    return _read_hdf5(path, limit) if _format(path) == "hdf5" else _read_safetensors(path, limit)


def _format(path: Path) -> str:
    """hdf5 or safetensors, by the first bytes. Raises WeightsError for all else, with the way out."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path} is no file; give a .safetensors or .h5 file")
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head[8:] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError(
            f"{path} is a pickle or an archive (.pt, .pth, .npz, .keras), and nothing is unpickled here; where it was "
            "made, save it with safetensors.torch.save_file(model.state_dict(), FILE), or in Keras as .h5"
        )
    raise WeightsError(f"{path} is {'neither safetensors nor HDF5' if head else 'empty'}; give a .safetensors or .h5")


def _read_safetensors(path: Path, limit: int) -> Raw:
    import safetensors

    try:
        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > _MAX_HEADER:
                raise WeightsError(f"{path} is damaged: its header is said to have more than {_MAX_HEADER >> 20} MB")
        with safetensors.safe_open(path, framework="numpy") as opened:
            names = [_checked(name) for name in sorted(opened.keys())]
            slices = {name: opened.get_slice(name) for name in names}
            kinds = {name: str(piece.get_dtype()) for name, piece in slices.items()}
            floats = [name for name in names if kinds[name] in _FLOATS]
            # As float32, which is what they become here.
            _bound(sum(max(_FLOATS[kinds[n]], 4) * math.prod(slices[n].get_shape()) for n in floats), limit)
            arrays = {name: _float32(name, opened.get_tensor(name)) for name in floats}
            metadata = {str(key): str(value) for key, value in (opened.metadata() or {}).items()}
    except _Refused as error:
        raise WeightsError(f"{path}: {error}") from None
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        raise WeightsError(f"{path} is damaged, or no safetensors file: {_line(error)}") from error
    others = [name for name in names if name not in arrays]
    return Raw(path, "safetensors", arrays, others, metadata=metadata, kinds=frozenset(kinds.values()))


def _read_hdf5(path: Path, limit: int) -> Raw:
    command = [sys.executable, "-BP", __file__, str(path.absolute()), str(limit), str(_CPU_SECONDS)]
    quiet = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, env={**os.environ, **quiet}, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        said = f"{path} was not read after {_SECONDS} s; it is damaged, or its disk does not answer"
        raise WeightsError(said) from None
    if done.returncode == _REFUSED:
        raise WeightsError(f"{path}: {_line(done.stderr.decode(errors='replace').splitlines()[-1])}")
    if done.returncode:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        raise WeightsError(f"{path} is damaged, or made to do harm: the process that read it ended with {how}")
    end = done.stdout.index(b"\n")
    told, arrays, at = json.loads(done.stdout[:end]), {}, end + 1
    for name, shape in told["arrays"]:
        size = math.prod(shape)
        arrays[name] = np.frombuffer(done.stdout, np.float32, size, at).reshape(shape)
        at += 4 * size
    return Raw(path, "hdf5", arrays, lists=told["lists"])


class _Refused(Exception):
    """What is wrong with a file, before the file's name is put in front."""


def _checked(name: str) -> str:
    """A name as it is, if it can stand in a message. Raises _Refused."""
    if not name.isprintable() or len(name) > _MAX_NAME:
        raise _Refused(f"a name in it is no plain text of at most {_MAX_NAME} characters: {name[:80]!a}")
    return name


def _bound(size: int, limit: int) -> None:
    if size > limit:
        raise _Refused(
            f"it holds {size / 1e6:,.0f} MB of weights, and at most {limit / 1e6:,.0f} MB could belong to this "
            "network; check model.preset and the file"
        )


def _float32(name: str, value: Any) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.ascontiguousarray(value, np.float32)
    if not np.isfinite(array).all():
        raise _Refused(f"{name} has values that are not finite")
    return array


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# From here on: the reading process.


def _main() -> int:
    path, limit, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    limits = {
        resource.RLIMIT_AS: (1 << 30) + 3 * limit, resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0,
    }  # fmt: skip
    for what, most in limits.items():
        with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
            resource.setrlimit(what, (most, most + 1))  # first the signal that says why
    try:
        for part in _hdf5_parts(path, limit):
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return 0
    except _Refused as error:
        print(error, file=sys.stderr)
    except Exception as error:  # h5py raises anything for a damaged file
        print(f"it is damaged ({type(error).__name__}: {_line(error)})", file=sys.stderr)
    return _REFUSED


def _hdf5_parts(path: str, limit: int) -> Iterator[bytes]:
    """A line of JSON with the names and shapes, then the values of each array."""
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        datasets, lists = _walk(file)
        for name, dataset in datasets.items():
            _check_dataset(name, dataset, limit)
        _bound(sum(max(d.dtype.itemsize, 4) * math.prod(d.shape) for d in datasets.values()), limit)
        told = {"arrays": [[name, dataset.shape] for name, dataset in datasets.items()], "lists": lists}
        yield json.dumps(told).encode() + b"\n"
        for name, dataset in datasets.items():
            yield _float32(name, dataset[()]).tobytes()


def _walk(file: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """All datasets by path, but for an optimizer's, and the attributes that matter. Raises _Refused for any link that
    could lead out of the file, and for more names or levels than a network has (a group can hold itself)."""
    import h5py

    datasets: dict[str, Any] = {}
    lists: dict[str, list[str]] = {}
    waiting: list[tuple[str, int, Any]] = [("", 0, file)]
    count = 0
    while waiting:
        prefix, depth, group = waiting.pop()
        at = prefix.rstrip("/")
        lists |= {f"{at}@{key}": found for key in _ATTRIBUTES if (found := _texts(at, group, key)) is not None}
        for name in group:
            count += 1
            if "/" in _checked(name) or count > _MAX_NAMES or depth > _MAX_DEPTH:
                much = f"more than {_MAX_NAMES} names or {_MAX_DEPTH} levels, or odd ones"
                raise _Refused(f"it has {much}, at {at}/{name}")
            if (prefix, name) == ("", "optimizer_weights"):
                continue
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _Refused(f"{prefix}{name} is a link, which could lead out of the file")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((f"{prefix}{name}/", depth + 1, item))
            elif isinstance(item, h5py.Dataset):
                datasets[prefix + name] = item
            else:
                raise _Refused(f"{prefix}{name} is neither a group nor an array")
    return datasets, lists


def _check_dataset(name: str, dataset: Any, limit: int) -> None:
    """Raises _Refused for an array whose values are not in the file itself, or whose blocks are no part of it."""
    import h5py

    kind = dataset.id.get_type()
    if kind.get_class() != h5py.h5t.FLOAT or kind.get_size() not in (2, 4, 8) or dataset.shape is None:
        raise _Refused(f"{name} holds no floating-point numbers of 2, 4 or 8 bytes")
    made = dataset.id.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise _Refused(f"the values of {name} are said to lie in another file")
    filters = {made.get_filter(i)[0] for i in range(made.get_nfilters())}
    if not filters.issubset(_HARMLESS_FILTERS):
        raise _Refused(f"{name} is packed by filter {max(filters)}, which is not read here; pack it with gzip, or not")
    if dataset.chunks:
        _bound(math.prod(dataset.chunks) * kind.get_size(), limit)


def _texts(at: str, group: Any, key: str) -> list[str] | None:
    """The texts of an attribute, or None. Keras splits one of more than 64 KB into key0, key1, ..."""
    split = itertools.takewhile(group.attrs.__contains__, (f"{key}{i}" for i in itertools.count()))
    names = [key] if key in group.attrs else list(split)
    if not names:
        return None
    return [text for name in names for text in _text_array(f"{at}@{name}", group.attrs, name)]


def _text_array(where: str, attributes: Any, name: str) -> list[str]:
    import h5py

    found = attributes.get_id(name)
    size = 0 if found.shape is None else math.prod(found.shape)
    if size == 0:
        return []  # an empty list has no kind: Keras writes one as numbers
    kind = found.get_type()
    if kind.get_class() != h5py.h5t.STRING or size > _MAX_NAMES:
        raise _Refused(f"{where} is no list of at most {_MAX_NAMES} names")
    if not kind.is_variable_str() and kind.get_size() > _MAX_NAME:
        raise _Refused(f"{where} has names of more than {_MAX_NAME} characters")
    values = np.ravel(np.asarray(attributes[name], object))
    return [_checked(value.decode() if isinstance(value, bytes) else str(value)) for value in values]


if __name__ == "__main__":
    sys.exit(_main())
