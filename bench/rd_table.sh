#!/bin/sh
# Quality against size: a Markdown table of `rd` at twelve bit rates.
#
#     bench/rd_table.sh MODEL_DIR TEXT [compress options, e.g. --uniform]
#
# Bits per weight count every byte of every tensor. Perplexity scores every token of 512-token windows; KL divergence (from the original, in
# nats) and agreement on the likeliest token score the second half of each window. BITS, CODECLLM and KEEP (a directory for the compressed
# models) may be set in the environment.
set -eu
export LC_ALL=C
if [ $# -lt 2 ]; then
    echo "usage: bench/rd_table.sh MODEL_DIR TEXT [compress options]" >&2
    exit 2
fi
model=$1 text=$2
shift 2
codecllm=${CODECLLM:-$(dirname "$0")/../build/codecllm}
bits=${BITS:-8.51 6.97 6.10 5.38 5.07 4.82 4.60 4.48 4.14 3.87 3.71 3.25}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
keep=${KEEP:-$work}

dirs=
for b in $bits; do
    out=$keep/rd-$b
    echo "compress to $b bits" >&2
    "$codecllm" compress "$model" -o "$out" --mode rd --bpw "$b" --profile small --force "$@" >&2
    "$codecllm" info "$out" --compare "$model" --json >"$work/info-$b.json"
    dirs="$dirs $out"
done
echo "score" >&2
# shellcheck disable=SC2086 # one word per directory
"$codecllm" ppl $dirs "$model" -f "$text" --json >"$work/ppl.json"
# shellcheck disable=SC2086
"$codecllm" ppl $dirs "$model" -f "$text" --kl "$model" --score second-half --json >"$work/kl.json"

echo "| asked bits/weight | measured | bytes | perplexity | mean KL, nats | same likeliest token | weight SNR, dB |"
echo "|---|---|---|---|---|---|---|"
i=0
for b in $bits; do
    figures=$(jq -r -n --argjson i $i --slurpfile info "$work/info-$b.json" --slurpfile ppl "$work/ppl.json" --slurpfile kl "$work/kl.json" \
        '$info[0] as $f | $ppl[0][$i] as $p | $kl[0][$i] as $k
         | [$f.bits_per_weight, $f.bytes, $p.ppl, $k.kl_mean, 100 * $k.top1_agreement, $f.snr_db] | @tsv')
    # shellcheck disable=SC2086 # one word per figure
    printf "| $b | %.3f | %d | %.3f | %.6f | %.2f %% | %.2f |\n" $figures
    i=$((i + 1))
done
jq -r '"\nUncompressed: perplexity \(.[-1].ppl) (\(.[-1].tokens) tokens)."' "$work/ppl.json"
