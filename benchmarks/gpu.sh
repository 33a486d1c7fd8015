#!/usr/bin/env bash
# One part of the GPU table, in at most 10 minutes and without network: bash benchmarks/gpu.sh PART
#
#   check      correctness of the CUDA paths against float64
#   sft        LoRA SFT     |
#   sft-full   full SFT     |
#   reward     reward model | tokens/s, peak memory and utilisation on a Llama of 1B with random weights in bfloat16,
#   dpo        DPO          | beside TRL with SDPA, and with Liger where liger-kernel is installed
#   ppo        PPO          |
#
# Where TRL fails, as when its memory does not suffice, the reason is printed and burnish is measured alone.
#
# PYTHON           of an environment with burnish           (default: .venv/bin/python)
# PEER_PYTHON      of one with trl==1.16.0 and peft         (not set: TRL is left out)
# PEER_PPO_PYTHON  of one with trl==1.12.0 and peft         (not set: TRL is left out)
# WORK             where model and data are made            (default: /tmp/burnish-gpu)
# RESULTS          where the results go, as JSON            (default: benchmarks/results)
# LIMIT            seconds                                  (default: 600)
#
# Afterwards `python benchmarks/report.py` writes RESULTS.md.
set -euo pipefail
cd "$(dirname "$0")/.."

PARTS="check sft sft-full reward dpo ppo"
part=${1:-}
case " $PARTS " in
    *" ${part:-none} "*) ;;
    *)
        echo "usage: bash benchmarks/gpu.sh PART, with one of: $PARTS" >&2
        exit 2
        ;;
esac

PYTHON=${PYTHON:-.venv/bin/python}
if ! "$PYTHON" -c "import torch, burnish" 2>/dev/null; then
    echo "$PYTHON has no torch or no burnish" >&2
    echo "  to do: set PYTHON to the python of an environment that burnish is installed in" >&2
    exit 2
fi
if ! "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "there is no CUDA GPU here (or torch is a build without CUDA): nothing is measured" >&2
    echo "  to do: run this on a machine with an NVIDIA GPU; RESULTS.md says that the table is not yet measured" >&2
    exit 3
fi

options=(--work "${WORK:-/tmp/burnish-gpu}" --results "${RESULTS:-benchmarks/results}")
[ -n "${PEER_PYTHON:-}" ] && options+=(--peer-python "$PEER_PYTHON")
[ -n "${PEER_PPO_PYTHON:-}" ] && options+=(--peer-ppo-python "$PEER_PPO_PYTHON")
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
code=0
timeout --signal=TERM --kill-after=10 "${LIMIT:-600}" "$PYTHON" benchmarks/gpu.py "$part" "${options[@]}" || code=$?
if [ "$code" -eq 124 ]; then
    echo "the part $part took more than ${LIMIT:-600} seconds and was stopped; nothing of it is kept" >&2
fi
exit "$code"
