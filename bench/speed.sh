#!/bin/sh
# Every speed in one run, each beside its floor: decoders and encoders beside libzstd and memcpy, whole models beside the uncompressed one.
#
#     bench/speed.sh MODEL_DIR [REPEAT]
set -eu
if [ $# -lt 1 ]; then
    echo "usage: bench/speed.sh MODEL_DIR [REPEAT]" >&2
    exit 2
fi
model=$1 repeat=${2:-5}
codecllm=${CODECLLM:-$(dirname "$0")/../build/codecllm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

grep -m 1 'model name' /proc/cpuinfo || true
echo "$(nproc) cores, $("$codecllm" version)"
echo
"$codecllm" bench decode "$model" -r "$repeat"
echo
"$codecllm" bench compress "$model"
for mode in int8 rd lossless; do
    "$codecllm" compress "$model" -o "$work/$mode" --mode $mode >/dev/null
    echo
    "$codecllm" bench model "$work/$mode" --baseline "$model" -r "$repeat"
done
