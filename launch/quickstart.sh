#!/usr/bin/env bash
# From nothing to a trained and evaluated network: makes an environment, draws a small data set of synthetic faces,
# trains on it, and evaluates the result. Run again, it goes on where it was, or says that all is done.
#
#   bash launch/quickstart.sh [FOLDER]      everything goes into FOLDER (default: ./quickstart_results)
#   PYTHON=python3.12 bash launch/quickstart.sh
set -euo pipefail
folder=${1:-quickstart_results}
if [[ $folder == -* ]]; then
    echo "usage: bash launch/quickstart.sh [FOLDER]" >&2
    exit 2
fi
mkdir -p "$folder"
folder=$(CDPATH='' cd "$folder" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/common.sh
began=$SECONDS

# expressnet ARGUMENTS...: the command as a user would type it, shown first.
expressnet() {
    printf '    expressnet'
    printf ' %q' "$@"
    printf '\n'
    "$venv/bin/expressnet" "$@"
}

stage "1/4  environment"
make_environment

stage "2/4  data: drawn faces, eight expressions"
expressnet data prepare synthetic_faces --data_dir "$folder/data"

stage "3/4  training"
expressnet train --config=synthetic_faces --workdir "$folder/run" --data_dir "$folder/data"

stage "4/4  evaluation on the test split"
expressnet evaluate --workdir "$folder/run" --data_dir "$folder/data"
finish_stage

printf '\nAll done in %d:%02d. The results:\n' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60))
for file in "$folder"/run/summary.txt "$folder"/run/*.png "$folder"/run/evaluation/*/*.{txt,png}; do
    if [ -e "$file" ]; then printf '    %s\n' "$file"; fi
done
