#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster: builds the image, starts a JobSet, shows host 0's log.
#
#   NAME=lzn IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/lzn_jax CLAIM=share \
#       ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4 HOSTS=4 CHIPS=4 \
#       launch/gke.sh --config=configs/cifar10_gen.py --workdir=/mnt/share/results/cifar10 \
#       --config.data.path=/mnt/share/cifar10 [--dry-run]
#
# The cluster needs JobSet (https://jobset.sigs.k8s.io) and a node pool of that accelerator and
# topology. JobSet starts all hosts again after a preemption, up to 20 times. Before a name is used
# again: kubectl delete jobset NAME.
#
# Required: NAME, IMAGE (without tag: the commit is the tag), CLAIM (a ReadWriteMany volume claim,
#   mounted at /mnt/share), ACCELERATOR, TOPOLOGY, HOSTS, CHIPS (of a host).

set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

parse "$@"
require NAME IMAGE CLAIM ACCELERATOR TOPOLOGY HOSTS CHIPS
IMAGE=$IMAGE:$LZN_COMMIT
INNER=${INNER//\\/\\\\} # it stands in a quoted string of YAML
INNER=${INNER//\"/\\\"}

manifest=$(<launch/gke_jobset.yaml)
for name in NAME IMAGE CLAIM ACCELERATOR TOPOLOGY HOSTS CHIPS LZN_COMMIT INNER; do
    # Quoted, or & would stand for what is replaced.
    manifest=${manifest//"\${$name}"/"${!name}"}
done

run docker build --tag "$IMAGE" --file launch/Dockerfile .
run docker push "$IMAGE"
if [[ "$DRY_RUN" == 1 ]]; then
    echo "kubectl apply --filename - <<END"
    echo "$manifest"
    echo "END"
else
    kubectl apply --filename - <<<"$manifest"
fi
# shellcheck disable=SC2153 # NAME is required above
host_0="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
if [[ "$DRY_RUN" == 0 ]]; then
    # kubectl wait fails where there is no pod yet; older ones do so even with --for=create.
    until [[ -n "$(kubectl get pod --selector="$host_0" --output=name)" ]]; do sleep 5; done
fi
run kubectl wait --for=condition=Ready --timeout=1h pod --selector="$host_0"
run kubectl logs --follow --selector="$host_0"
run kubectl get jobset "$NAME"
