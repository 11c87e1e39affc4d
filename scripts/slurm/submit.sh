#!/usr/bin/env bash
# A training run on GPU nodes by Slurm; `submit.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: scripts/slurm/submit.sh [options] -- train RECIPE --workdir DIR [options of sscd-jax train]

Submits scripts/slurm/train.sbatch, which runs the sscd-jax command that follows `--` with one process for each GPU. If the
job is preempted or reaches its time limit, it returns to the queue and resumes from its latest checkpoint. All nodes must
see DIR, the images and an installation of sscd-jax: pip install -r requirements.txt -e '.[cuda,augly]'

  --nodes N           number of nodes (default 4)
  --gpus N            number of GPUs of a node, and of processes on it (default 8)
  --cpus N            number of cores for each process, to prepare images (default 12)
  --name NAME         name of the job (default sscd_jax)
  --time LIMIT        time limit, after which the job returns to the queue (default 24:00:00)
  --partition NAME    partition of the cluster (default: Slurm's)
  --account NAME      account that the job is charged to (default: Slurm's)
  --venv DIR          virtual environment to activate (default: the one that is active, if any)
  --follow            show the log as it grows
  --dry-run           print the commands and run none
HELP
}

die() {
    echo "submit.sh: $*" >&2
    exit 1
}

nodes=4 gpus=8 cpus=12 name=sscd_jax time=24:00:00 partition='' account='' venv=${VIRTUAL_ENV:-} follow='' dry=''
training=()
while (($#)); do
    case $1 in
        --follow) follow=yes ;;
        --dry-run) dry=yes ;;
        -h | --help) usage && exit ;;
        --nodes | --gpus | --cpus | --name | --time | --partition | --account | --venv)
            (($# > 1)) || die "$1 needs a value"
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        --)
            shift
            training=("$@")
            break
            ;;
        *) die "unknown option $1; submit.sh --help lists them" ;;
    esac
    shift
done
((${#training[@]})) || die "what is to be run comes after --, as: -- train disc_blur --workdir DIR"

show() {
    printf '%q' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
submit=(sbatch --parsable --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" --gres="gpu:$gpus")
submit+=(--cpus-per-task="$cpus" --time="$time" --output="$name-%j.log")
if [[ $partition ]]; then submit+=(--partition="$partition"); fi
if [[ $account ]]; then submit+=(--account="$account"); fi
submit+=("--export=ALL,SSCD_VENV=$venv" "$here/train.sbatch" "${training[@]}")

if [[ $dry ]]; then
    show "${submit[@]}"
    echo "# which runs on the nodes"
    SSCD_VENV=$venv SSCD_DRY_RUN=yes SLURM_CPUS_PER_TASK=$cpus bash "$here/train.sbatch" "${training[@]}"
    job=JOB
else
    command -v sbatch >/dev/null || die "there is no sbatch here: run it on a login node of the cluster, or with --dry-run"
    job=$("${submit[@]}")
    job=${job%%;*} # with several clusters, the cluster follows
    echo "job $job, log $name-$job.log; scancel $job ends it"
fi
if [[ $follow ]]; then
    log=("tail" -n +1 -F "$name-$job.log")
    if [[ $dry ]]; then show "${log[@]}"; else "${log[@]}"; fi
fi
