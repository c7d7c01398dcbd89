#!/usr/bin/env bash
# The first minutes on a machine with a GPU: does it hold what the plan says, is it exact there, how fast is it against
# PyTorch, and what does it learn?
#
#   bash launch/gpu_check.sh FOLDER [MINUTES]     everything is written to FOLDER; 12 minutes unless something else is said
#
#   DATA_DIR=...           prepared data sets (default: TensorFlow Datasets' own folder)
#   PYTHON=...             a Python that has this project and jax for CUDA (default: python)
#   TORCH=...              a Python that has torch for CUDA (default: the same); without torch, its part is left out
#   CONFIGS="A B"          what is trained, in turn (default: fer2013_medium fer2013); each gets half of what time is left
#
# Every part's output is in FOLDER/NAME.log, one line of each in FOLDER/summary.txt, the trained runs in FOLDER/runs. A
# part that fails does not end the others. Run again with the same FOLDER, what has passed is left out, and training
# goes on where it was.
set -euo pipefail
folder=${1:-}
minutes=${2:-12}
if [[ -z $folder || $folder == -* || ! $minutes =~ ^[0-9]+$ ]]; then
    echo "usage: bash launch/gpu_check.sh FOLDER [MINUTES]" >&2
    exit 2
fi
mkdir -p "$folder/runs"
folder=$(CDPATH='' cd "$folder" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
torch=${TORCH:-$python}
read -ra configs <<<"${CONFIGS:-fer2013_medium fer2013}"
data=(${DATA_DIR:+--data_dir "$DATA_DIR"})
end=$((SECONDS + 60 * minutes))
failed=0

left() { echo $((end - SECONDS)); }

# part NAME SECONDS COMMAND...: runs it for so long at most, and no longer than is left; says how it went.
part() {
    local name=$1 most=$2 began=$SECONDS code=0 said
    shift 2
    if grep -qs "^$name: passed" "$folder/summary.txt"; then
        echo "==> $name: passed before"
        return
    fi
    ((most < $(left))) || most=$(left)
    if ((most < 10)); then
        echo "$name: not run, no time left" | tee -a "$folder/summary.txt"
        return
    fi
    printf '==> %s, at most %d s:' "$name" "$most"
    printf ' %q' "$@"
    printf '\n'
    # TERM first: a training saves everything and ends with 75.
    timeout --signal=TERM --kill-after=60 "$most" "$@" >>"$folder/$name.log" 2>&1 || code=$?
    case $code in
    0) said=passed ;;
    75 | 124) said="stopped after its time" ;;
    *) said="failed (exit code $code)" failed=1 ;;
    esac
    tail -n 4 "$folder/$name.log" | sed 's/^/    /'
    echo "$name: $said in $((SECONDS - began)) s" | tee -a "$folder/summary.txt"
}

expressnet=("$python" -m expressnet_jax.cli)
"$python" -c 'import jax; print(jax.__version__, jax.devices())' | tee "$folder/devices.txt"
device=cpu
grep -qi cuda "$folder/devices.txt" && device=cuda

paper=(--config=fer2013 --config.model.dtype=bfloat16 --config.batch_size=128)
part plan 150 "${expressnet[@]}" plan "${paper[@]}" --here
grep -A 4 "predicted.*compiled.*measured" "$folder/plan.log" || true
part golden 240 "$python" -m pytest -q -p no:cacheprovider tests/golden
part experts 120 "${expressnet[@]}" inspect --config=fer2013 --selfcheck
if "$torch" -c 'import torch' 2>/dev/null; then
    peer="$torch tests/peers/pytorch.py --preset paper --device $device --amp --compile"
    part step 180 "${expressnet[@]}" bench step "${paper[@]}" --against "$peer" --pairs 3
else
    echo "step: not run, $torch has no torch" | tee -a "$folder/summary.txt"
fi
for number in "${!configs[@]}"; do
    config=${configs[$number]}
    name=$(basename "${config%.py}")
    part "train_$name" $(($(left) / (${#configs[@]} - number))) "${expressnet[@]}" train --config="$config" \
        --workdir "$folder/runs/$name" "${data[@]}"
done
exit "$failed"
