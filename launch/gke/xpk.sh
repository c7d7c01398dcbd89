#!/usr/bin/env bash
# The same with XPK, which writes the JobSet itself: for those who make their clusters with it.
#
#   bash launch/gke/xpk.sh [--dry-run] NAME CLUSTER TPU_TYPE SLICES IMAGE -- train --config=fer2013 --workdir ...
#
# such as my-run my-cluster v5litepod-16 2 REGION-docker.pkg.dev/PROJECT/REPOSITORY/expressnet:tpu. Once, before that:
#   xpk cluster create --cluster=my-cluster --tpu-type=v5litepod-16 --num-slices=2 --spot \
#       --enable-gcpfilestore-csi-driver
#   xpk storage create expressnet-work --cluster=my-cluster --type=gcpfilestore --auto-mount=false \
#       --mount-point=/shared --size=1024 --tier=BASIC_HDD --access-mode=ReadWriteMany --vol=work \
#       --readonly=false
# Follow:  xpk inspector --cluster=my-cluster --workload=my-run
# Stop:    xpk workload delete --cluster=my-cluster --workload=my-run
# XPK starts all pods again after 75, 76, 127 and crashes, not after 1 and 2. Its pods are privileged and run as root.
# Needs xpk 1.x, kubectl and gcloud, with a project and zone set. Run here: the dry run of xpk 1.16 itself, which wrote
# a JobSet from this command. Not yet run on a cluster.
set -euo pipefail

fail() { printf 'xpk.sh: %s (see --help)\n' "$1" >&2 && exit 2; }
# shellcheck source=launch/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/../check.sh"

dry=''
case ${1-} in
-h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
--dry-run) dry=yes && shift ;;
esac
if [ $# -lt 7 ] || [ "$6" != -- ]; then fail "give NAME CLUSTER TPU_TYPE SLICES IMAGE -- ARGUMENTS of expressnet"; fi
for i in 1 2 3; do
    if [[ ! ${!i} =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]]; then fail "'${!i}' is not a name"; fi
done
if [[ ! $4 =~ ^[1-9][0-9]{0,3}$ ]]; then fail "'$4' is not a number of slices"; fi
if [[ ! $5 =~ ^[a-z0-9][A-Za-z0-9._/:@-]*$ ]]; then fail "'$5' is not an image"; fi

check_command "${@:7}"
words=("${@:7}" --distributed)
# exec, so that SIGTERM reaches expressnet and not XPK's shell
command=(xpk workload create "--workload=$1" "--cluster=$2" "--tpu-type=$3" "--num-slices=$4" "--docker-image=$5"
    --storage=expressnet-work --max-restarts=20 "--restart-on-exit-codes=75,76" --termination-grace-period-seconds=300
    --env=TFDS_DATA_DIR=/shared/data "--command=exec expressnet ${words[*]@Q}")
if [ -n "$dry" ]; then printf '%q ' "${command[@]}" && echo && exit; fi
exec "${command[@]}"
