#!/bin/sh
# Checks and measures the Python package on this machine's GPU. Prints a log as it goes, and at its end how many checks passed.
#
#   bench/python_gpu.sh [--wheels DIR] [--codecllm PROGRAM] [--model DIR]... [--dtype TYPE]... [--tokens N] [PART]...
#
# Parts (all of them, in this order, if none is named):
#   decode        every mode and type, batches, streams, rows: the bits of the CPU decoder; corrupt tiles are told
#   multiply      products in float16, bfloat16 and float32 against sums in double precision; in a CUDA graph
#   zstd          nvCOMP: integers come back; skipped where its wheel (nvidia-libnvcomp-cu13) is missing
#   zero-copy     the same data_ptr, nothing allocated by torch, no copy in the profile; 1000 decodes do not grow device memory
#   paths         every --model in every --dtype: each path against nn.Linear of the decoded weights: text of --tokens, and how far logits are apart
#   transformers  every --model, compressed by the command line: from_pretrained gives its greedy text; needs --codecllm
#   table         examples/torch_inference.py in TinyLlama-1.1B's shape: all paths, 10 and 128 tokens
#   profile       the same, what the GPU does in each path
#
# Needs torch and transformers. --wheels: wheels in a folder (this package's, nvCOMP's) are installed into a temporary folder first, without
# any network; otherwise the installed package is used. --codecllm: the command (default build/codecllm or build-gpu/codecllm if there). --model: an
# uncompressed model directory (default models/tiny). --dtype: float32, float16 or bfloat16 (default all). --tokens: default 32. Relative names
# start at the repository, that of --wheels where you are. CLLM_PYTHON: the interpreter (default python3).
set -u
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
python=${CLLM_PYTHON:-python3}
wheels=""
case " $* " in
*" -h "* | *" --help "*)
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
    ;;
esac
if [ "${1:-}" = --wheels ]; then
    [ $# -gt 1 ] || { echo "bench/python_gpu.sh: --wheels needs a folder" >&2; exit 2; }
    wheels=$2
    shift 2
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if [ -n "$wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --target "$work/site" "$wheels"/*.whl || exit 1
    PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
fi
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false
cd "$root" || exit 1
"$python" -B bench/python_gpu.py "$@" &
trap 'kill $!; exit 143' TERM # an interpreter left behind would disturb whatever is measured next
wait $!
