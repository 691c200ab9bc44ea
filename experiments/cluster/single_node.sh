#!/usr/bin/env bash
# Train on all GPUs of one machine, without a scheduler.
#
#   RUN=sa1b DATA_ROOT=/data/sa1b-512 experiments/cluster/single_node.sh
#
# Run it from the root of the repository. Started again, it goes on from runs/RUN's last checkpoint.
# torchrun starts all ranks anew when one dies, up to RESTARTS times, and each start goes on there.

# Settings, by the environment.
: "${RUN:=cluster}"                # the run's folder is runs/RUN
: "${DATA_ROOT:=sa1b}"             # folder of the shards
: "${CONFIGS:=conf/base.yaml conf/sa1b.yaml}" # in this order
: "${VENV:=.venv}"                 # where maskfeat is installed
: "${DEVICES:=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}" # processes, one per GPU
: "${RESTARTS:=3}"                 # how often torchrun starts all ranks anew
: "${WORDS:=}"                     # more words for `lightning fit`; no word may hold a space

set -uo pipefail
[[ $DEVICES -gt 0 ]] || { echo "no GPU was found; set DEVICES to the number of processes" >&2; exit 2; }
[[ -d $VENV ]] && PATH="$(cd "$VENV" && pwd)/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Else ranks that start anew read what dead ones left in a store that outlives them.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

words=(fit)
for config in $CONFIGS; do words+=(--config="$config"); done
words+=(--run_name="$RUN" --data_root="$DATA_ROOT" --trainer.devices="$DEVICES")
# `last` is the newest checkpoint there is, and none at the first start.
# shellcheck disable=SC2206 # to be split into words
words+=(--trainer.strategy=ddp --ckpt_path=last $WORDS)
exec torchrun --standalone --nproc-per-node="$DEVICES" --max-restarts="$RESTARTS" \
  -m maskfeat "${words[@]}"
