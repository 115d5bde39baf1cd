#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates or reuses it, installs the committed code, runs on all hosts.
#
#   TPU_NAME=lzn ZONE=us-west4-a ACCELERATOR=v5litepod-16 NFS=10.0.0.2:/share \
#       launch/tpu_pod.sh --config=configs/cifar10_gen.py --workdir=/mnt/share/results/cifar10 \
#       --config.data.path=/mnt/share/cifar10 [--dry-run]
#
# Host 0's log is shown here; ~/lzn_jax/run.log holds each host's own. After a preemption the slice
# is created anew, as soon as there is one, and the run goes on from its newest checkpoint. A run
# whose connection is lost is waited for. The slice is left running.
#
# Required: TPU_NAME, ZONE, ACCELERATOR, NFS (HOST:/EXPORT of a file system that all hosts mount at
#   /mnt/share: checkpoints and results must lie where all hosts see them).
# Optional: PROJECT, RUNTIME (tpu-ubuntu2204-base), SPOT=1, MAX_RESTARTS (20).

set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

parse "$@"
require TPU_NAME ZONE ACCELERATOR NFS
RUNTIME=${RUNTIME:-tpu-ubuntu2204-base}
MAX_RESTARTS=${MAX_RESTARTS:-20}
WHERE=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
ARCHIVE=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$ARCHIVE"' EXIT
# Waits on a host for the end of a run; [l], or the shell that asks would find itself.
WAIT="while pgrep -f 'python -m [l]zn_jax.main' > /dev/null; do
            echo 'a run goes on here' >&2
            sleep 60
        done"

tpu() {
    run gcloud compute tpus tpu-vm "$@" "${WHERE[@]}"
}

on_all_hosts() {
    tpu ssh "$TPU_NAME" --worker=all --command="$1"
}

state() {
    [[ "$DRY_RUN" == 1 ]] && return
    gcloud compute tpus tpu-vm describe "$TPU_NAME" "${WHERE[@]}" --format='value(state)' \
        2>/dev/null || true
}

have_slice() {
    case "$(state)" in
        READY) return ;;
        PREEMPTED | TERMINATED | STOPPED) tpu delete "$TPU_NAME" --quiet ;;
    esac
    tpu create "$TPU_NAME" --accelerator-type="$ACCELERATOR" --version="$RUNTIME" \
        ${SPOT:+--spot}
}

# Chained, as bash ignores set -e in what an if asks. New hosts may be at their own updates, and
# apt-get update has no option to wait for them. uv brings the Python that Ubuntu 22.04 lacks.
install() {
    run git archive --format=tar.gz --output="$ARCHIVE" HEAD &&
        tpu scp "$ARCHIVE" "$TPU_NAME:lzn_jax.tar.gz" --worker=all &&
        on_all_hosts "set -e
        $WAIT
        rm -f lzn_jax/run.code
        timeout 600 sh -c 'until sudo apt-get update -qq; do sleep 10; done'
        sudo apt-get install -qq -y -o DPkg::Lock::Timeout=600 nfs-common
        sudo mkdir -p /mnt/share
        mountpoint -q /mnt/share || sudo mount -t nfs $(printf '%q' "$NFS") /mnt/share
        mkdir -p lzn_jax && tar -xzf lzn_jax.tar.gz -C lzn_jax
        curl -LsSf https://astral.sh/uv/install.sh | sh
        ~/.local/bin/uv venv --quiet --clear --python 3.12 venv
        ~/.local/bin/uv pip install --quiet --python venv -e 'lzn_jax[tpu,tfds]'"
}

# Host 0 says what it does, and keeps the exit code, which gcloud does not pass on. tee -p lets the
# run live when the connection is lost.
train() {
    on_all_hosts "cd lzn_jax && . ../venv/bin/activate && export LZN_COMMIT=$LZN_COMMIT
        metadata=http://metadata.google.internal/computeMetadata/v1/instance/attributes
        host=\$(curl -s -H Metadata-Flavor:Google \$metadata/agent-worker-number)
        ($INNER; echo \$? > run.code) 2>&1 |
            if [ \$host = 0 ]; then tee -p run.log; else cat > run.log; fi"
}

ask_host_0() {
    tpu ssh "$TPU_NAME" --worker=0 --command="$WAIT; cat lzn_jax/run.code || echo lost"
}

# The run's exit code, after its end; `lost` where there is none.
exit_code() {
    if [[ "$DRY_RUN" == 1 ]]; then
        ask_host_0 >&2
        echo 0
        return
    fi
    local code try
    for ((try = 0; try < 10; try++)); do
        code=$(ask_host_0) || true
        [[ -z "$code" && "$(state)" == READY ]] || break
        sleep 60
    done
    echo "${code:-lost}"
}

for ((restart = 0; restart <= MAX_RESTARTS; restart++)); do
    until have_slice; do # others may have it for long
        [[ $restart != 0 ]] || exit 1
        sleep 60
    done
    code=lost
    if install; then
        train || true
        code=$(exit_code)
    elif [[ $restart == 0 ]]; then
        exit 1
    fi
    case "$code" in
        0 | 2 | 3) exit "$code" ;; # done, the user's input, non-finite: not mended by a restart
    esac
    echo "the run ended with code $code; it goes on from its newest checkpoint" >&2
    sleep 60
done
echo "error: $MAX_RESTARTS restarts were not enough" >&2
exit 1
