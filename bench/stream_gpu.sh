#!/bin/sh
# Checks and measures models that are larger than the memory they may take, on this machine's GPU and CPU. Prints a log, and at its end what each
# part came to.
#
#   bench/stream_gpu.sh [--build DIR] [--files DIR] [--repeat N] [PART]...
#
# Parts (all of them, in this order, if none is named; each takes at most a few minutes):
#   tests      the same tokens at every budget, what memory is taken, every allocation failing once: test_gpu_stream
#   stream-1b  TinyLlama-1.1B's shape with nothing resident, beside its FP16 form through the same ring: what is held, how much of the bus is used,
#              and where the time of a step goes; beside it transformers' eager mode with all resident, where Python has it and this package
#   stream-8b  Llama-3-8B's shape with 1 GB, the same
#   sweep-8b   Llama-3-8B's shape from the smallest budget to all resident: speed must not fall, the plan and the driver's figure must not exceed it;
#              writes 5 GB
#   disk       TinyLlama-1.1B's shape, twice as large as the memory it may take, from files: on the CPU, and on the GPU
#   disk-8b    the same for Llama-3-8B's shape, which writes 5 GB
#
# --build: where the programs are (default build-gpu; bench/gpu.sh builds them). --files: a folder of the disk that is to be measured (default the
# build's); a drawn model is written there and removed again. CLLM_PYTHON: the interpreter (default python3).
set -u
python=${CLLM_PYTHON:-python3}
build=build-gpu files="" repeat=3 parts=""
all="tests stream-1b stream-8b sweep-8b disk disk-8b"

usage() {
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit "$1"
}
wrong() {
    echo "bench/stream_gpu.sh: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
    --build | --files | --repeat)
        [ $# -gt 1 ] || wrong "$1 needs a value"
        case $1 in
        --build) build=$2 ;;
        --files) files=$2 ;;
        --repeat) repeat=$2 ;;
        esac
        shift
        ;;
    -h | --help) usage 0 ;;
    *)
        case " $all " in
        *" $1 "*) parts="$parts $1" ;;
        *) wrong "no part is called '$1'; there are: $all" ;;
        esac
        ;;
    esac
    shift
done
[ -n "$parts" ] || parts=$all
cd "$(dirname "$0")/.." || exit 1
[ -n "$files" ] || files=$build
codecllm=$build/codecllm
[ -x "$codecllm" ] || wrong "no $codecllm; bench/gpu.sh builds it"
work=$(mktemp -d "$files/stream.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
"$codecllm" info --device cuda || wrong "no GPU to measure"

say() {
    echo "\$ $*"
    "$@"
}

part_tests() {
    [ -x "$build/test_gpu_stream" ] || { echo "skipped: no test_gpu_stream in $build"; return 77; }
    say env CLLM_TEST_LARGE="tinyllama-1.1b llama-3-8b" "$build/test_gpu_stream"
}

# CSV to stdout and to a file.
measure_csv() {
    echo "\$ $*"
    "$@" >"$work/rows.csv" || return 1
    cat "$work/rows.csv"
}

# check EXPRESSION MESSAGE [any]: of every row of a generation whose weights are compressed, or of any. last: tokens/s of the row before.
check() {
    awk -F, -v message="$2" -v which="${3:-compressed}" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        function col(name) { return $at[name] }
        col("test") !~ /^tg/ || (which != "any" && col("weights") != which) || col("budget_mb") == "" { next }
        { rows++; if (!('"$1"')) { bad++; print "WRONG: " message ": budget " col("budget_mb") " MB" } last = col("tokens_per_s") + 0 }
        END { if (!rows) print "WRONG: no row to check"; exit bad > 0 || !rows }' "$work/rows.csv"
}

part_stream_1b() {
    bad=0
    measure_csv "$codecllm" bench model --synthetic tinyllama-1.1b --bpw 4.25 --device cuda -p 512 -n 128 -r "$repeat" --max-vram full --csv || return 1
    check 'col("held_mb") <= 200' "more than 200 MB are held" || bad=1
    check 'col("device_used_mb") <= col("budget_mb")' "the driver's figure exceeds the budget" any || bad=1
    check 'col("share_of_bus") >= 85' "less than 85 % of the bus" || bad=1
    say "$codecllm" bench model --synthetic tinyllama-1.1b --bpw 4.25 --device cuda -p 0 -n 32 -r 1 --max-vram full --timeline || bad=1
    measure_csv "$codecllm" bench model --synthetic tinyllama-1.1b --bpw 4.25 --device cuda -p 0 -n 16 -r 1 --max-vram min --csv || return 1
    check 'col("device_used_mb") <= col("budget_mb")' "the driver's figure exceeds the smallest budget" any || bad=1
    if "$python" -c "import torch, transformers, codecllm" 2>/dev/null; then
        say "$python" -B examples/torch_inference.py --synthetic tinyllama --tokens 128 --codecs || bad=1
    else
        echo "skipped: transformers' eager mode: $python lacks torch, transformers or codecllm"
    fi
    return $bad
}

part_stream_8b() {
    bad=0
    measure_csv "$codecllm" bench model --synthetic llama-3-8b --bpw 4.25 --device cuda -p 512 -n 32 -r "$repeat" --max-vram 1G --csv || return 1
    check 'col("device_used_mb") <= col("budget_mb")' "the driver's figure exceeds the budget" any || bad=1
    check 'col("share_of_bus") >= 85' "less than 85 % of the bus" || bad=1
    return $bad
}

# Speeds of one budget differ by a percent or so from one measurement to the next.
part_sweep_8b() {
    bad=0
    say "$codecllm" bench model --synthetic llama-3-8b --bpw 4.25 --save "$work/llama-3-8b" || return 1
    measure_csv "$codecllm" bench model "$work/llama-3-8b" --device cuda -p 0 -n 32 -r "$repeat" \
        --max-vram min,full,10%,25%,50%,75%,90%,98%,100% --csv || return 1
    check 'col("planned_mb") <= col("budget_mb")' "the plan exceeds the budget" || bad=1
    check 'col("device_used_mb") <= col("budget_mb")' "the driver's figure exceeds the budget" any || bad=1
    check 'col("tokens_per_s") >= 0.98 * last' "speed falls" || bad=1
    say "$codecllm" bench model "$work/llama-3-8b" --device cuda -p 0 -n 16 -r 1 --max-vram 1G,50% --timeline || bad=1
    return $bad
}

# from_files SHAPE TOKENS
from_files() {
    bad=0
    say "$codecllm" bench model --synthetic "$1" --bpw 4.25 --save "$work/$1" || return 1
    half=$(($(wc -c <"$work/$1/model.safetensors") / 2))
    for device in "--device cpu" "--device cuda --max-vram full"; do
        # shellcheck disable=SC2086 # words
        say "$codecllm" info "$work/$1" --plan $(echo "$device" | sed 's/--max-vram full//') -c 128 --max-ram $half || bad=1
        # shellcheck disable=SC2086 # words
        measure_csv "$codecllm" bench model "$work/$1" $device --max-ram $half -p 0 -n "$2" -r "$repeat" --csv || bad=1
        check 'col("share_of_disk") >= 80' "less than 80 % of the speed of reading, $device" || bad=1
    done
    return $bad
}
part_disk() { from_files tinyllama-1.1b 16; }
part_disk_8b() { from_files llama-3-8b 8; }

failures=0
: >"$work/summary"
for part in $parts; do
    echo
    echo "== $part"
    began=$(date +%s)
    "part_$(echo "$part" | tr - _)"
    code=$?
    rm -rf "$work"/*/
    case $code in
    0) outcome=ok ;;
    77) outcome=skipped ;;
    *) outcome="FAILED ($code)" failures=$((failures + 1)) ;;
    esac
    printf '%-10s %-12s %5d s\n' "$part" "$outcome" $(($(date +%s) - began)) >>"$work/summary"
done

echo
echo "== summary"
cat "$work/summary"
[ $failures -eq 0 ] || exit 1
