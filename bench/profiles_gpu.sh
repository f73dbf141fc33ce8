#!/bin/sh
# What --profile costs and gives: a real model, compressed with every profile, timed on a GPU beside its uncompressed form, in one run.
#
#     bench/profiles_gpu.sh MODEL_DIR [TEXT]
#
# Bits per weight count every byte of every tensor. Speeds are the mean of REPEAT (7) repetitions in tokens/s: a prompt of 256 tokens, and 128
# tokens one at a time. "of fast" is the speed of generation as a share of that of profile fast with the same mode and bits. With TEXT, the
# perplexity of eight windows. BITS (4.25 3.5), PROFILES (auto fast small), CODECLLM, and KEEP (a directory for the compressed models) may be
# set in the environment.
set -eu
export LC_ALL=C
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: bench/profiles_gpu.sh MODEL_DIR [TEXT]" >&2
    exit 2
fi
model=$1 text=${2:-}
codecllm=${CODECLLM:-$(dirname "$0")/../build/codecllm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
keep=${KEEP:-$work}

# speed DIR: "prompt generation" in tokens/s.
speed() {
    "$codecllm" bench model "$1" --device cuda -p 256 -n 128 -r "${REPEAT:-7}" --csv |
        awk -F, '$4 ~ /^pp/ { prompt = $5 } $4 ~ /^tg/ { generation = $5 } END { print prompt, generation }'
}
perplexity() {
    [ -n "$text" ] || { echo -; return; }
    "$codecllm" ppl "$1" -f "$text" --max-windows 8 --device cuda --json | sed -n 's/.*"ppl": *\([0-9.]*\).*/\1/p' | head -n 1
}
# bits DIR: bits per weight of the whole directory.
bits() { "$codecllm" info "$1" --json | sed -n 's/.*"bits_per_weight": *\([0-9.]*\).*/\1/p' | head -n 1; }
# row NAME PROFILE DIR FAST: prints a row; FAST is the speed of generation to compare with, or empty.
row() {
    speed "$3" >"$work/speed"
    read -r prompt generation <"$work/speed"
    share=$(awk -v a="$generation" -v b="${4:-}" 'BEGIN { if (b > 0) printf "%.1f %%", 100 * a / b; else print "-" }')
    echo "| $1 | $2 | $(bits "$3") | $prompt | $generation | $share | $(perplexity "$3") |"
}
# profiles NAME OPTIONS...: one row for each profile.
profiles() {
    name=$1
    shift
    "$codecllm" compress "$model" -o "$keep/$name-fast" "$@" --profile fast --force >/dev/null
    speed "$keep/$name-fast" >"$work/fast"
    read -r _ fast <"$work/fast"
    for profile in ${PROFILES:-auto fast small}; do
        [ "$profile" = fast ] || "$codecllm" compress "$model" -o "$keep/$name-$profile" "$@" --profile "$profile" --force >/dev/null
        row "$name" "$profile" "$keep/$name-$profile" "$fast"
    done
}

echo "| coding | profile | bits/weight | prompt of 256, tokens/s | generation of 128, tokens/s | of fast | perplexity |"
echo "|---|---|---|---|---|---|---|"
row uncompressed - "$model" ""
for b in ${BITS:-4.25 3.5}; do profiles "rd-$b" --mode rd --bpw "$b"; done
profiles int8 --mode int8
profiles lossless --mode lossless
