#!/usr/bin/env bash
# Submits a training to Kubernetes as a JobSet, queued by Kueue.
#
#   bash launch/gke/submit.sh tpu --name NAME --image IMAGE [OPTIONS] -- train --config=fer2013 --workdir /shared/runs/a
#   bash launch/gke/submit.sh gpu --name NAME --image IMAGE [OPTIONS] -- train --config=fer2013 --workdir /shared/runs/a
#
#   --topology 4x4    of a TPU slice (default 4x4)      --slices S   how many slices (default 1)
#   --nodes N         with gpu (default 2)              --chips C    TPU chips (4) or GPUs (8) of a host
#   --accelerator X   value of the node label (default: tpu-v5-lite-podslice, nvidia-h100-80gb)
#   --queue Q         of Kueue (default: default)       --claim C    the volume for /shared (default: expressnet-work)
#   --restarts R      of all pods (default 20)          --dry-run    prints command and manifest, submits nothing
#
# Follow:  kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=NAME,batch.kubernetes.io/job-completion-index=0
# Stop:    kubectl delete jobset NAME (SIGTERM: the run is saved); the same submit resumes it.
# Needs kubectl with access to a cluster; tpu.yaml, gpu.yaml and volume.yaml say what the cluster needs.
# Run here: --dry-run. Not yet run on a cluster.
set -euo pipefail

fail() { printf 'submit.sh: %s (see --help)\n' "$1" >&2 && exit 2; }
# shellcheck source=launch/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/../check.sh"

here=$(dirname "${BASH_SOURCE[0]}") kind=${1-} dry=''
declare -A value=([NAME]='' [IMAGE]='' [QUEUE]=default [CLAIM]=expressnet-work [RESTARTS]=20 [SLICES]=1)
case $kind in
tpu) value+=([ACCELERATOR]=tpu-v5-lite-podslice [TOPOLOGY]=4x4 [CHIPS]=4) ;;
gpu) value+=([ACCELERATOR]=nvidia-h100-80gb [NODES]=2 [CHIPS]=8) ;;
-h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
*) fail "say what to submit, tpu or gpu" ;;
esac
shift
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    key=${1#--} && key=${key^^}
    if [ "$1" = --dry-run ]; then
        dry=yes && shift
    elif [ $# -gt 1 ] && [ -n "$key" ] && [ -n "${value[$key]+known}" ]; then
        value[$key]=$2 && shift 2
    else
        fail "$kind takes no '$1', or it lacks its value"
    fi
done
if [ $# -lt 2 ]; then fail "the arguments of expressnet come after --"; fi
shift
check_command "$@"

# Only what cannot be more than a value goes into a manifest.
name='[a-z]([a-z0-9-]*[a-z0-9])?'
for key in "${!value[@]}"; do
    case $key in
    NAME | QUEUE | CLAIM | ACCELERATOR) pattern=$name ;;
    IMAGE) pattern='[a-z0-9][A-Za-z0-9._/:@-]*' ;;
    TOPOLOGY) pattern='[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}' ;;
    *) pattern='[1-9][0-9]{0,3}' ;;
    esac
    if [[ ! ${value[$key]} =~ ^($pattern)$ ]]; then fail "--${key,,} '${value[$key]}' is not a ${key,,}"; fi
    if [ "$key" != IMAGE ] && [ ${#value[$key]} -gt 40 ]; then fail "--${key,,} is longer than 40 letters"; fi
done
value[HOSTS]=${value[NODES]-}
if [ "$kind" = tpu ]; then
    chips=$((${value[TOPOLOGY]//x/*}))
    if ((chips % value[CHIPS])); then fail "a ${value[TOPOLOGY]} slice is not hosts of ${value[CHIPS]} chips"; fi
    value[HOSTS]=$((chips / value[CHIPS]))
fi

list='' # the arguments as YAML strings; Kubernetes expands $(...), and not $$(...)
for word in "$@" --distributed; do
    if [[ $word == *[[:cntrl:]]* ]]; then fail "an argument has a line break or another control character"; fi
    word=${word//\\/\\\\} && word=${word//\"/\\\"} && word=${word//\$(/\$\$(}
    list+="${list:+, }\"$word\""
done

manifest=$(grep -v '^#' "$here/$kind.yaml")
for key in "${!value[@]}"; do manifest=${manifest//"\${$key}"/"${value[$key]}"}; done
manifest=${manifest/"\${ARGUMENTS}"/"$list"}
if [ -n "$dry" ]; then
    printf "kubectl create -f - <<'END'\n%s\nEND\n" "$manifest"
else
    kubectl create -f - <<<"$manifest"
fi
