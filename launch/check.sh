# shellcheck shell=bash
# Sourced by tpu_vm.sh, gke/submit.sh and gke/xpk.sh, which have `fail`: a mistyped command is refused here, at once and
# for nothing, and not by expressnet on machines that were waited for and are paid for. What --config names, and its
# settings, only expressnet knows.

# check_command ARGUMENTS: of expressnet, whose own parser the tests compare it with.
check_command() {
    local command=${1-} flags='json' values='workdir data_dir' needed='workdir' given=' ' name value
    case $command in
    train) values+=' config track' needed+=' config' ;;
    evaluate) flags+=' robustness saliency' values+=' data split' ;;
    *) fail "the command is train or evaluate, not '$command'" ;;
    esac
    while shift && [ $# -gt 0 ]; do
        name=${1%%=*} && name=${name#--} value=${1#*=}
        if [[ $1 == --?* && " $flags " == *" ${1#--} "* ]]; then continue; fi
        if [[ $1 != --?* || " $values " != *" ${name%%.?*} "* || $name == [!c]*.* ]]; then
            fail "$command takes no '$1'"
        fi
        if [[ $1 != *=* ]]; then
            if [[ $# -lt 2 || $2 == --* ]]; then fail "$1 lacks its value"; fi
            value=$2 && shift
        fi
        if [ "$name" = workdir ] && [[ ! $value =~ ^/shared/.*[^/] ]]; then
            fail "--workdir '$value' is not in /shared, and would be lost with the machines"
        fi
        given+="$name "
    done
    for name in $needed; do
        if [[ $given != *" $name "* ]]; then fail "$command needs --$name"; fi
    done
}
