"""web/: a page that answers pictures in a browser, as a folder for any static server.

index.html, page.js   the page; it may load what lies beside it and nothing else
model.onnx            the graph (`onnx_format`)
onnxruntime/          what runs it: two files of npm's package onnxruntime-web
"""

import base64
import hashlib
import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines import pictures
from data_pipelines.common import pages
from data_pipelines.common.text import reason
from expressnet_jax.config import ConfigError

VERSION = "1.30.0"
#: What `npm pack onnxruntime-web@VERSION` leaves in the current folder, and its sha512 as npm publishes it.
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_MAX_BYTES = 64 << 20
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_TEMPLATES = Path(__file__).parent / "templates"


def runtime(package: Path | None) -> dict[str, bytes]:
    """The files of onnxruntime-web that a page needs, by name, from the package as npm publishes it; None: PACKAGE,
    here. Raises ConfigError."""
    package = package or Path(PACKAGE)
    get = f"`npm pack onnxruntime-web@{VERSION}` gets it"
    try:
        if not package.is_file():
            raise ConfigError(f"web needs onnxruntime-web: no file {package}; {get}, --onnxruntime_web names it")
        with package.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{package} cannot be read: {reason(error, named=package)}") from None
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != INTEGRITY:
        raise ConfigError(f"{package} is not onnxruntime-web {VERSION} as it was published (another sha512); {get}")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {name: archive.extractfile(f"package/dist/{name}") for name in FILES}
        return {name: member.read() for name, member in found.items() if member}


def write(folder: Path, meta: Mapping[str, Any], files: Mapping[str, bytes], network: str) -> None:
    """Writes the page to `folder`, where model.onnx is already.

    meta: config.json; files: of `runtime`; network: what the network is called.
    """
    (folder / "onnxruntime").mkdir()
    for name, data in files.items():
        (folder / "onnxruntime" / name).write_bytes(data)
    shutil.copyfile(_TEMPLATES / "page.js", folder / "page.js")
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    text = pages.render(
        pages.environment(_TEMPLATES).get_template("web.html.j2"), title=f"{meta['run']['name']}: facial expressions",
        classes=meta["classes"], stored=meta["stored"], faces=meta["faces"], data=meta["run"]["data"]["name"],
        longest=pictures.MAX_SIDE, megabytes=f"{total / 1e6:.0f}", network=network,
        size=meta["config"]["model"]["image_size"], step=meta["step"], digest=meta["digest"], version=VERSION,
    )  # fmt: skip
    (folder / "index.html").write_text(text, "ascii")
