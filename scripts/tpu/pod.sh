#!/usr/bin/env bash
# A TPU pod slice for a training run; `pod.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: scripts/tpu/pod.sh COMMAND --name NAME --zone ZONE [options] [-- train RECIPE --workdir SHARED/RUN ...]

Requests a TPU pod slice as a queued resource of Google Cloud, and trains on all of its workers.

  create   request the slice and wait until it is ready
  install  copy this repository's latest commit to all workers and install it
  start    start the sscd-jax command that follows `--` on all workers
  stop     end that command on all workers
  follow   show the log of a worker as it grows
  status   print the state of the slice and of the run
  delete   delete the slice
  run      create, install, start, wait for the end, and delete. After a preemption, delete, create, install and start
           again; the run resumes from its latest checkpoint. If the slice exists already, it is used, and if a run is
           on it, `run` waits for that run. Ctrl-C ends the waiting and leaves the slice: `delete` it.

  --name NAME           name of the queued resource and of its node
  --zone ZONE           zone of the slice, such as us-west4-a
  --project PROJECT     Google Cloud project (default: the one that gcloud is configured for)
  --type TYPE           accelerator type (default v5litepod-32)
  --runtime VERSION     software version on the workers (default: the one for the type)
  --worker N            number of the worker whose log `follow` shows (default 0)
  --on-demand           request a slice that is not preempted, at a higher price than a spot slice
  --data-disk SOURCE    disk with the images, attached read-only to all workers:
                        projects/PROJECT/zones/ZONE/disks/DISK
  --setup COMMAND       command that `install` runs at its end on every worker, for example to mount the disk
  --interval SECONDS    seconds between two checks of the state (default 60)
  --retries N           failures in a row, of the run or of the request, after which `run` gives up (default 3)
  --keep                do not delete the slice at the end of `run`
  --dry-run             print the commands and run none; `run` pretends that a preemption happens
HELP
}

die() {
    echo "pod.sh: $*" >&2
    exit 1
}

command=${1:-}
case $command in
    create | install | start | stop | follow | status | delete | run) shift ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
esac

name='' zone='' project='' type=v5litepod-32 runtime='' data_disk='' setup='' worker=0
interval=60 retries=3 spot=yes keep='' dry=''
training=()
while (($#)); do
    case $1 in
        --on-demand) spot='' ;;
        --keep) keep=yes ;;
        --dry-run) dry=yes ;;
        -h | --help) usage && exit ;;
        --name | --zone | --project | --type | --runtime | --data-disk | --setup | --worker | --interval | --retries)
            (($# > 1)) || die "$1 needs a value"
            variable=${1#--}
            printf -v "${variable//-/_}" '%s' "$2"
            shift
            ;;
        --)
            shift
            training=("$@")
            break
            ;;
        *) die "unknown option $1; pod.sh --help lists them" ;;
    esac
    shift
done
[[ $name && $zone ]] || die "--name and --zone must be given"
if [[ $command == start || $command == run ]] && ((${#training[@]} == 0)); then
    die "what is to be run comes after --, as: -- train disc_blur --workdir SHARED/RUN"
fi
if [[ ! $runtime ]]; then # https://docs.cloud.google.com/tpu/docs/runtimes
    case $type in
        v4-*) runtime=tpu-ubuntu2204-base ;;
        v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
        v5p-*) runtime=v2-alpha-tpuv5 ;;
        v6e-*) runtime=v2-alpha-tpuv6e ;;
        *) die "no runtime known for $type: give --runtime" ;;
    esac
fi
where=(--zone "$zone")
if [[ $project ]]; then
    where+=(--project "$project")
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# ---- Every command that acts goes through `run` or `ask`.

show() {
    printf '%q' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
}

run() {
    if [[ $dry ]]; then show "$@"; else "$@"; fi
}

say() {
    echo "# $*"
}

pause() {
    if [[ ! $dry ]]; then sleep "$interval"; fi
}

on_workers() { # WORKER COMMAND
    run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

# ---- The slice.

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
pretended=(NONE ACTIVE SUSPENDED ACTIVE ACTIVE) # the states that a dry run pretends to see, in order
state=''
look() { # sets state
    local ask=(gcloud compute tpus queued-resources describe "$name" "${where[@]}" '--format=value(state.state)')
    if [[ $dry ]]; then
        show "${ask[@]}"
        if [[ $command == run ]]; then
            state=${pretended[0]}
            pretended=("${pretended[@]:1}")
        else
            state=ACTIVE
        fi
        say "supposed to be $state"
    elif ! state=$("${ask[@]}" 2>"$errors"); then
        if grep -q NOT_FOUND "$errors"; then
            state=NONE
        else
            cat "$errors" >&2
            state=UNKNOWN # an error of the request says nothing about the slice
        fi
    fi
}

create() {
    local options=(--node-id="$name" --accelerator-type="$type" --runtime-version="$runtime")
    if [[ $spot ]]; then options+=(--spot); fi
    if [[ $data_disk ]]; then options+=(--data-disk="source=$data_disk,mode=read-only"); fi
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" "${options[@]}"
}

wait_for_slice() { # fails if there will be no slice
    while true; do
        look
        case $state in
            ACTIVE) return ;;
            FAILED | SUSPENDED | SUSPENDING | NONE) return 1 ;;
        esac
        say "the slice is $state"
        pause
    done
}

delete() {
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

# ---- The run. uv installs Python, because workers may have a version before 3.11.

# shellcheck disable=SC2016 # expanded on the workers
INSTALL='set -e
rm -rf ~/sscd_jax && mkdir ~/sscd_jax && tar -xf ~/sscd_jax.tar -C ~/sscd_jax && cd ~/sscd_jax
python3 -m pip install --quiet --user uv
~/.local/bin/uv venv --quiet --clear --python 3.11 ~/venv
~/.local/bin/uv pip install --quiet --python ~/venv/bin/python -r requirements.txt -e ".[tpu,augly]"'
# shellcheck disable=SC2016
START='if [ ! -f ~/sscd_jax.status ] && kill -0 "$(cat ~/sscd_jax.pid 2>/dev/null)" 2>/dev/null; then
echo "is running already"; else
rm -f ~/sscd_jax.status; cd ~/sscd_jax
setsid nohup bash -c COMMAND >>~/sscd_jax.log 2>&1 </dev/null & echo $! >~/sscd_jax.pid; fi'
# shellcheck disable=SC2016
STOP='if [ -f ~/sscd_jax.pid ]; then group=$(cat ~/sscd_jax.pid); kill -- "-$group" 2>/dev/null
for second in $(seq 60); do kill -0 -- "-$group" 2>/dev/null || break; sleep 1; done
kill -KILL -- "-$group" 2>/dev/null; rm -f ~/sscd_jax.pid; fi; true'
# shellcheck disable=SC2016
ASK='if [ -f ~/sscd_jax.status ]; then cat ~/sscd_jax.status
elif kill -0 "$(cat ~/sscd_jax.pid 2>/dev/null)" 2>/dev/null; then echo running; else echo missing; fi'

# shellcheck disable=SC2016
LAST='echo "last lines of $(hostname)"; tail -n 20 ~/sscd_jax.log'

install() {
    local archive=sscd_jax.tar done=0
    if [[ ! $dry ]]; then archive=$(mktemp); fi
    run git -C "$root" archive --output="$archive" HEAD &&
        run gcloud compute tpus tpu-vm scp "$archive" "$name:sscd_jax.tar" "${where[@]}" --worker=all &&
        on_workers all "$INSTALL${setup:+$'\n'$setup}" || done=$?
    if [[ ! $dry ]]; then rm -f "$archive"; fi
    return "$done"
}

start() {
    local line
    printf -v line ' %q' "${training[@]}"
    printf -v line '%q' "\$HOME/venv/bin/sscd-jax$line; echo \$? >\$HOME/sscd_jax.status"
    on_workers all "${START/COMMAND/"$line"}"
}

answer=''
ask_run() { # sets answer: running, missing, unreachable, or the status with which the run ended
    if [[ $dry ]]; then
        on_workers 0 "$ASK"
        answer=0
        say "supposed to have ended"
    elif answer=$(on_workers 0 "$ASK"); then
        answer=${answer##*$'\n'}
    else
        answer=unreachable # for example while the slice is preempted
    fi
}

failures=0
failed() { # WHAT
    failures=$((failures + 1))
    say "$1"
    ((failures <= retries)) || die "$failures failures in a row; see pod.sh follow, and delete the slice"
}

begin() {
    { on_workers all "$STOP" && install && start; } || say "not started; the next check of the state shows why"
}

keep_running() {
    while true; do
        look
        case $state in
            NONE | SUSPENDED | FAILED)
                if [[ $state == FAILED ]]; then failed "the request failed"; fi
                if [[ $state != NONE ]]; then
                    say "the slice is $state: requesting it again"
                    delete || say "not deleted; trying again after the next check of the state"
                fi
                if ! create; then
                    failed "could not request the slice"
                elif wait_for_slice; then
                    begin
                fi
                ;;
            ACTIVE)
                ask_run
                case $answer in
                    0)
                        say "the run has ended"
                        return
                        ;;
                    running) failures=0 ;;
                    unreachable) ;;
                    *)
                        # The log of the worker that failed shows the error; the logs of the others only say that a worker is gone.
                        [[ $answer == missing ]] || on_workers all "$LAST" || true
                        failed "the run is missing or ended with an error ($answer): starting it"
                        begin
                        ;;
                esac
                ;;
        esac
        pause
    done
}

case $command in
    create)
        create
        wait_for_slice || die "the slice is $state"
        ;;
    install) install ;;
    start) start ;;
    stop) on_workers all "$STOP" ;;
    follow) on_workers "$worker" 'tail -n 100 -F ~/sscd_jax.log' ;;
    status)
        look
        echo "slice: $state"
        if [[ $state == ACTIVE ]]; then
            ask_run
            echo "run: $answer"
        fi
        ;;
    delete) delete ;;
    run)
        keep_running
        if [[ ! $keep ]]; then delete; fi
        ;;
esac
