#!/usr/bin/env bash
# A new user's way, in small: from a Parquet file of faces to a network that answers without this package. Every command
# runs as `expressnet COMMAND 2>FILE | cat`, and must leave its result on standard output, no progress in it.
#
#   bash tests/end_to_end/new_user.sh FOLDER     an empty folder for all that comes; python is the environment's
#
# Prints a line a command: seconds, lines on standard output, lines on standard error, the command.
set -euo pipefail
tiny=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../tiny.py")
cd "${1:?"usage: bash tests/end_to_end/new_user.sh FOLDER"}"
export TFDS_DATA_DIR="$PWD/data"
progress='so far|left$|^compiling|^compiled|^step [0-9]'

# expressnet ARGUMENTS...: one command between a pipe and a file.
expressnet() {
    local began=$SECONDS
    if ! python -m expressnet_jax.cli "$@" 2>err | cat >out; then
        cat out err >&2
        echo "failed: expressnet $*" >&2
        return 1
    fi
    if ! [ -s out ] || grep -qE "$progress" out || grep -q Traceback err; then
        cat out err >&2
        echo "nothing, or progress, on standard output: expressnet $*" >&2
        return 1
    fi
    printf '%3d s  %3d out  %3d err  expressnet %s\n' $((SECONDS - began)) "$(wc -l <out)" "$(wc -l <err)" "$*"
}

python - <<'PYTHON'
import io, json
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from PIL import Image

rng, names = np.random.default_rng(0), ["happy", "sad", "surprise"]

def row(label):
    # A disc whose height says the class, so that there is something to learn.
    down, across = np.mgrid[:48, :48]
    disc = (down - 10 - 14 * label) ** 2 + (across - rng.integers(16, 32)) ** 2 < 64
    picture = io.BytesIO()
    Image.fromarray((150 * disc + rng.integers(0, 100, (48, 48))).astype(np.uint8)).save(picture, "PNG")
    return {"image": {"bytes": picture.getvalue(), "path": None}, "label": label}

features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
metadata = {"huggingface": json.dumps({"info": {"features": features}})}
for split, count in (("train", 96), ("validation", 32), ("test", 32)):
    table = pa.Table.from_pylist([row(number % 3) for number in range(count)])
    pq.write_table(table.replace_schema_metadata(metadata), f"{split}-00000-of-00001.parquet")
Image.open(io.BytesIO(row(0)["image"]["bytes"])).save("face.png")
PYTHON
mkdir parquet
mv ./*.parquet parquet

config=(--config="$tiny" --config.data.name=mine '--config.data.classes=happiness,sadness,surprise'
    --config.total=16steps --config.data.test_split=test)
expressnet data prepare folder --name mine --from parquet
expressnet data audit mine --html audit.html
expressnet inspect "${config[@]}"
expressnet plan "${config[@]}" --gpus h100:8
expressnet bench input "${config[@]}" --repeats 1
expressnet train "${config[@]}" --workdir run
expressnet evaluate --workdir run
expressnet inspect run
expressnet ablate "${config[@]}" --config.total=4steps --sweep moe.top_k=1,2 --seeds 2 --out study
expressnet report run --out run.html
expressnet report study --out study.html --tables tables
expressnet export --workdir run --formats safetensors,stablehlo,onnx --out artifact
expressnet predict face.png --model artifact

# The lines on the artifact's card, where this package cannot be imported.
cp face.png artifact/face.jpg
cd artifact
python - <<'PYTHON'
import re, sys
from pathlib import Path

sys.modules.update(expressnet_jax=None, data_pipelines=None)
blocks = re.findall(r"(?ms)^```python\n(.*?)^```", Path("README.md").read_text())
for block in blocks:
    exec(block, {})
print(f"{len(blocks)} graphs answered without this package")
PYTHON
