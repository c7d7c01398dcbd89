# shellcheck shell=bash disable=SC2154
# Sourced by tpu_vm.sh, whose verbs and options it uses: `run`, which must neither lose a training to a passing failure
# nor leave a TPU behind that costs money. Run here: with a stand-in for gcloud. Not yet run on a TPU.

logs() { on "$1" 'sudo docker logs --tail 50 expressnet' || true; } # logs all|0
ended() { on 0 'sudo docker wait expressnet'; }
codes() { # of all hosts, at most three minutes after host 0: when each ended, and its exit code
    local c='sudo timeout 180 docker wait expressnet >/dev/null || sudo docker stop -t 300 expressnet >/dev/null'
    on all "$c; sudo docker inspect -f '{{.State.FinishedAt}} {{.State.ExitCode}}' expressnet"
}
first() { # the code of the host that failed first: the others end because of it, with 75 or a crash's code
    codes | LC_ALL=C sort | awk '/^[0-9].*Z [0-9]+$/ { n++; if (!code) code = $2 } END { if (n) print code + 0 }'
}

look() { # sets `state`, to none where there is no such TPU; fails if gcloud does not tell for half an hour
    local i said
    for i in {1..10}; do
        if said=$(status 2>&1) && state=$(grep -xE '[A-Z_]+' <<<"$said"); then return; fi
        if [[ $said == *NOT_FOUND* ]]; then state=none && return; fi
        say "gcloud does not tell the TPU's state ($i of 10): $said"
        sleep $((30 * i))
    done
    return 1
}

leave() { # leave CODE: deletes the TPU, in several tries, and ends
    for _ in {1..10}; do
        if delete || [[ $(status 2>&1) == *NOT_FOUND* ]]; then exit "$1"; fi
        sleep 60
    done
    say "COULD NOT DELETE THE TPU, which may still cost money: tpu_vm.sh delete $name --zone ${value[zone]}"
    exit $(($1 ? $1 : 1))
}

failed() { failures=$((failures + 1)) && say "failure $failures of 5 in a row: $1"; }
run() {
    local began code failures=0 restarts=0 state
    if [ -n "$dry" ]; then queue && status && install && start && ended && codes && logs 0 && delete && return; fi
    while ((failures < 5 && restarts < 20)) && look; do
        case $state in
        ACTIVE | READY)
            began=''
            if install && start && began=$(date +%s) && ended >/dev/null && code=$(first) && [ -n "$code" ]; then
                say "the training ended with exit code $code"
                case $code in
                0) logs 0 && leave 0 ;;
                1 | 2 | 126 | 127) logs all && leave "$code" ;;
                esac
                failures=0 restarts=$((restarts + 1))
            else
                # After ten minutes of training it was most likely preempted, which may happen any number of times.
                if (($(date +%s) - ${began:-$(date +%s)} > 600)); then failures=0; fi
                failed "not installed, not started, or lost on the way"
            fi
            stop || true # the other hosts may be waiting for one that is gone
            ;;
        none) queue || failed "cannot ask for a TPU" ;;
        FAILED)
            failed "the TPU was not granted, because:"
            queued describe '--format=yaml(state)' >&2 || true
            delete || true
            ;;
        SUSPENDED | PREEMPTED | TERMINATED) say "the TPU is gone; asking for another" && delete || true ;;
        esac
        sleep $((30 + 30 * failures))
    done
    say "giving up after $restarts restarts"
    stop || true # saves what may still be running
    leave 1
}
