#!/usr/bin/env bash
# Train on one GPU in slices of ten minutes, each of which goes on from the last checkpoint.
#
#     experiments/shipped/train_in_slices.sh FOLDER NAME [words of lightning fit]
#
# FOLDER holds the data sets, NAME is the run. One call is one slice, so that it can be called again
# on another machine, with runs/NAME carried over. Status 0: all steps are done; 124: call it again.
# SLICE_S is the length of a slice, seconds; the last step is finished and saved beyond it. Only the
# fit is told to stop (--foreground), once: its loader's workers are still needed for that step.
set -uo pipefail
folder=$1 name=$2
shift 2
words=(--config conf/bsds500.yaml --config conf/all.yaml --config conf/borders.yaml
    --config conf/all_further.yaml --data_root "$folder" --run_name "$name")
[ -e "runs/$name/checkpoints/last.ckpt" ] && words+=(--ckpt_path last)
exec timeout --foreground --signal=TERM "${SLICE_S:-560}" lightning fit "${words[@]}" "$@"
