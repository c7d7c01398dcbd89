#!/usr/bin/env bash
# A training on Cloud TPU machines without Kubernetes: one slice, whose hosts each run the TPU image.
#
#   bash launch/tpu_vm.sh VERB NAME [OPTIONS] [-- train --config=fer2013 --workdir /shared/runs/a]
#
#   queue | create   asks for the TPU: waits for it, or fails where none is free        status | delete
#   install          on all hosts: mounts /shared, pulls the image             follow   what host 0 prints
#   start | stop     on all hosts; stop saves, and start goes on
#   run              queue, install, start, wait, delete; after a preemption again, until the training has ended
#
#   --zone Z (us-west4-a)   --type T (v5litepod-16)   --version V (v2-alpha-tpuv5-lite)   --spot
#   --image IMAGE   of launch/container/Dockerfile with --build-arg EXTRAS=[tpu]
#   --nfs HOST:/SHARE   a Filestore, mounted at /shared      --dry-run   prints the commands, runs none
#
# /shared outlives the TPU, so data and runs belong there: the same command resumes on the next TPU.
# `run` deletes the TPU too when it gives up: after 20 restarts, or 5 failures in a row of gcloud, install or start.
# If it is ended itself, by Ctrl-C or with its terminal, the TPU stays and costs money: `run` again, or `delete`.
# Needs gcloud, with a project set, and rights to TPUs. The flags were checked against gcloud 528. Run here: all verbs,
# with a stand-in for gcloud. Not yet run on a TPU.
set -euo pipefail

say() { printf 'tpu_vm.sh: %s\n' "$1" >&2; }
fail() { say "$1 (see --help)" && exit 2; }

if [ "${1-}" = --help ] || [ "${1-}" = -h ]; then sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit; fi
verb=${1-} name=${2-} spot=() dry=''
declare -A value=([zone]=us-west4-a [type]=v5litepod-16 [version]=v2-alpha-tpuv5-lite [image]='' [nfs]='')
shift $(($# < 2 ? $# : 2))
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
    --dry-run) dry=yes ;;
    --spot) spot=(--spot) ;;
    --zone | --type | --version | --image | --nfs) value[${1#--}]=${2-} && shift $(($# > 1)) ;;
    *) fail "unknown option '$1'" ;;
    esac
    shift
done
arguments=("${@:2}")
if [[ ! $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]]; then fail "'$name' is not a name: letters a-z, digits, '-'"; fi
for key in zone type version; do
    if [[ ! ${value[$key]} =~ ^[a-z0-9][a-z0-9.-]*$ ]]; then fail "--$key '${value[$key]}' is not a $key"; fi
done
needs() { # needs KEY PATTERN
    if [[ ! ${value[$1]} =~ ^$2$ ]]; then fail "$verb needs --$1, and '${value[$1]}' is not one"; fi
}
image='[a-z0-9][A-Za-z0-9._/:@-]*' nfs='[a-z0-9][a-z0-9.-]*:/[A-Za-z0-9._/-]+'

do_() { # runs a command, or with --dry-run prints it
    local word
    if [ -z "$dry" ]; then
        "$@"
        return
    fi
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]]; then printf '%s ' "$word"; else printf '%s ' "${word@Q}"; fi
    done
    echo
}
tpu() { do_ gcloud compute tpus tpu-vm "$1" "$name" "--zone=${value[zone]}" "${@:2}"; }
queued() { do_ gcloud compute tpus queued-resources "$1" "$name" "--zone=${value[zone]}" "${@:2}"; }
on() { tpu ssh "--worker=$1" "--command=$2"; } # on all|0 COMMAND

queue() {
    queued create "--node-id=$name" "--accelerator-type=${value[type]}" \
        "--runtime-version=${value[version]}" "${spot[@]}"
}
create() { tpu create "--accelerator-type=${value[type]}" "--version=${value[version]}" "${spot[@]}"; }
or() { # or COMMAND...: for a TPU that was not queued, where the command before fails
    if [ -n "$dry" ]; then printf '# or: '; fi
    tpu "$@"
}
status() {
    queued describe '--format=value(state.state)' 2>/dev/null && [ -z "$dry" ] || or describe '--format=value(state)'
}
delete() { queued delete --force --quiet 2>/dev/null && [ -z "$dry" ] || or delete --quiet; }
install() {
    local c="sudo apt-get update -q && sudo apt-get install -qy nfs-common && sudo mkdir -p /shared"
    c+=" && { mountpoint -q /shared || sudo mount -t nfs ${value[nfs]} /shared; }"
    c+=" && sudo install -d -o 10001 -g 10001 /shared/runs"
    c+=" && sudo gcloud auth configure-docker ${value[image]%%/*} --quiet && sudo docker pull ${value[image]}"
    on all "$c"
}
start() { # where it is running already, it is left alone
    local c="sudo docker inspect -f {{.State.Running}} expressnet 2>/dev/null | grep -q true"
    c+=" || { sudo docker rm expressnet 2>/dev/null; sudo docker run --detach --name expressnet --privileged"
    c+=" --network host --ulimit memlock=-1 --volume /shared:/shared --env TFDS_DATA_DIR=/shared/data"
    c+=" ${value[image]} ${arguments[*]@Q} --distributed; }"
    on all "$c"
}
stop() { on all 'sudo docker stop -t 300 expressnet'; }
follow() { on 0 'sudo docker logs --follow --tail 50 expressnet'; }

# shellcheck source=launch/tpu_run.sh
. "$(dirname "${BASH_SOURCE[0]}")/tpu_run.sh"

case $verb in
queue | create | status | delete | stop | follow) ;;
install | run) needs image "$image" && needs nfs "$nfs" ;;
start) needs image "$image" ;;
*) fail "'$verb' is not a verb" ;;
esac
if [[ $verb =~ ^(start|run)$ ]]; then
    if [ ${#arguments[@]} = 0 ]; then fail "the arguments of expressnet come after --"; fi
    # shellcheck source=launch/check.sh
    . "$(dirname "${BASH_SOURCE[0]}")/check.sh"
    check_command "${arguments[@]}"
fi
"$verb"
