#!/usr/bin/env bash
# Installs PyTorch on its own, before anything that depends on it: as somebody's dependency, or without a GPU and
# without a hint, pip would fetch the default build and gigabytes of CUDA packages with it.
# Usage: scripts/install_torch.sh PATH_TO_PIP
set -euo pipefail
pip=$1
options=()
configured=$("$pip" config list 2>/dev/null || true)
if ! command -v nvidia-smi >/dev/null 2>&1 && [[ $configured != *extra-index-url* && $configured != *find-links* ]]; then
    # No GPU, and no index of the user's own to ask: PyTorch's index of CPU builds. A local version such as
    # 2.13.0+cpu is preferred over 2.13.0; where the index can't be reached, the default one serves.
    options+=(--retries 1 --extra-index-url https://download.pytorch.org/whl/cpu)
fi
exec "$pip" install --quiet --disable-pip-version-check "${options[@]}" "torch==2.13.0"
