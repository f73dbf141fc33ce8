#!/bin/sh
# Checks and measures the GPU backend on this machine. Prints a log, and at its end what each part came to.
#
#   bench/gpu.sh [--build DIR] [--model DIR]... [--text FILE] [--repeat N] [--prebuilt] [PART]...
#
# Parts (all of them, in this order, if none is named; each takes at most a few minutes):
#   kernels    every format against the CPU decoder, products against sums in double precision
#   int8       products of prompts by int8 tensor cores against sums in double precision, and beside cuBLAS FP16 (Hopper)
#   backend    logits, greedy texts and perplexity of small networks against the CPU: the tests that ctest runs where there is a GPU
#   integers   every matrix of every --model, in every mode and profile, decoded as the CPU decodes it, byte by byte
#   ppl        perplexity of every --model in every mode and profile, within 0.1 % of the CPU's; within 0.2 % with int8 activations (Hopper)
#   corrupt    2000 corrupted blobs: an error or a result, never a fault or a byte outside of the outputs
#   sanitize   compute-sanitizer: memcheck and racecheck over corrupted blobs, memcheck over a model that generates
#   gemv       one vector: eight shapes in every coding, beside cuBLAS FP16
#   batch      2, 4 and 8 vectors
#   decode     to a buffer; all linears of TinyLlama-1.1B in one call
#   model-1b   prompt and generation of a model of TinyLlama-1.1B's shape, beside its FP16 form
#   model-8b   the same for Llama-3-8B's shape
#   trellis    products, decoding and generation at 4.25 bits with a trellis and without, by turns
#   context    generation after 4096 tokens, Llama-3-8B's shape
#
# Builds into --build (default build-gpu) what is missing or out of date there; --prebuilt takes it as it is, so that programs built
# elsewhere need neither nvcc nor cmake. --model: an uncompressed model directory (default models/tiny). Relative names start at the
# repository.
set -u
build=build-gpu models="" text=models/tiny/heldout.txt repeat=7 prebuilt=no parts=""
all="kernels int8 backend integers ppl corrupt sanitize gemv batch decode trellis model-1b model-8b context"

usage() {
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit "$1"
}
wrong() {
    echo "bench/gpu.sh: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
    --build | --model | --text | --repeat)
        [ $# -gt 1 ] || wrong "$1 needs a value"
        case $1 in
        --build) build=$2 ;;
        --model) models="$models $2" ;;
        --text) text=$2 ;;
        --repeat) repeat=$2 ;;
        esac
        shift
        ;;
    --prebuilt) prebuilt=yes ;;
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
[ -n "$models" ] || models=models/tiny
[ -n "$parts" ] || parts=$all
cd "$(dirname "$0")/.." || exit 1
codecllm=$build/codecllm kernels=$build/src/cuda/bench_gpu_kernels int8=$build/src/cuda/bench_gpu_int8
[ -x "$kernels" ] || kernels=$build/bench_gpu_kernels
[ -x "$int8" ] || int8=$build/bench_gpu_int8

# ---- the machine and the programs

build_all() {
    architectures=$(script/gpu-architectures)
    [ -n "$architectures" ] || wrong "nvidia-smi shows no GPU here; nothing done"
    cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DCLLM_CUDA=ON "-DCLLM_CUDA_ARCHITECTURES=$architectures" >/dev/null &&
        cmake --build "$build" -j "$(nproc)" >/dev/null && cmake --build "$build" -j "$(nproc)" --target bench_gpu_kernels bench_gpu_int8 >/dev/null &&
        kernels=$build/src/cuda/bench_gpu_kernels int8=$build/src/cuda/bench_gpu_int8
}
if [ $prebuilt = no ]; then
    echo "== build into $build"
    build_all || wrong "the build failed; see cmake --build $build"
fi
[ -x "$codecllm" ] || wrong "no $codecllm; leave --prebuilt out to build it"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
"$codecllm" info --device cuda >"$work/device" 2>&1 || wrong "no GPU to measure: $(cat "$work/device")"
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)

echo "== device"
"$codecllm" version
cat "$work/device"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"

# ---- parts: each returns 0, 77 for "skipped", or anything else

skip() {
    echo "skipped: $*"
    return 77
}
# say COMMAND...: prints the command line, then runs it.
say() {
    echo "\$ $*"
    "$@"
}

part_kernels() {
    [ -x "$kernels" ] || skip "no bench_gpu_kernels in $build" || return
    say "$kernels" check
}

part_int8() {
    [ -x "$int8" ] || skip "no bench_gpu_int8 in $build" || return
    say "$int8" check && say "$int8" time
}

part_backend() {
    bad=0
    [ -x "$build/test_gpu" ] || skip "no test_gpu in $build" || return
    say "$build/test_gpu" || bad=1
    if command -v jq >/dev/null; then
        CLLM_SOURCE=. CLLM_BUILD=$build sh tests/cli/test_gpu.sh || bad=1
    else
        echo "jq is missing: tests/cli/test_gpu.sh was not run"
        bad=1
    fi
    return $bad
}

part_integers() {
    bad=0
    for model in $models; do
        for profile in small fast; do
            say "$codecllm" bench decode "$model" --device cuda --mode all --bpw 4.25,3.25,2.25 --profile $profile --limit 1000000000000 -r 1 || bad=1
        done
    done
    return $bad
}

number() { sed -n "s/^ *\"$1\": \([-+.0-9e]*\),*\$/\1/p" "$2" | head -n 1; }

ppl_of() {
    "$codecllm" ppl "$@" -f "$text" --json >"$work/ppl" && number ppl "$work/ppl"
}

# same_ppl DIR NAME: on the GPU as on the CPU, and with a prompt's own activations, which may be int8, near it.
same_ppl() {
    cpu=$(ppl_of "$1" --device cpu) && gpu=$(ppl_of "$1" --device cuda) && prompt=$(ppl_of "$1" --device cuda --prompt-type auto) || return 1
    [ -n "$cpu" ] && [ -n "$gpu" ] && [ -n "$prompt" ] || return 1
    awk -v name="$2" -v cpu="$cpu" -v gpu="$gpu" -v prompt="$prompt" 'BEGIN {
        off = 100 * (gpu / cpu - 1)
        rounded = 100 * (prompt / cpu - 1)
        good = off < 0.1 && off > -0.1 && rounded < 0.2 && rounded > -0.2
        printf "%-40s CPU %10.4f  GPU %10.4f %+.4f %%  --prompt-type auto %10.4f %+.4f %%%s\n", name, cpu, gpu, off, prompt, rounded, good ? "" : "  WRONG"
        exit !good
    }'
}

part_ppl() {
    bad=0
    for model in $models; do
        same_ppl "$model" "$model uncompressed" || bad=1
        for profile in small fast; do
            for mode in int8 "rd --bpw 4.5" "rd --bpw 3" lossless; do
                rm -rf "$work/model"
                # shellcheck disable=SC2086 # a mode and its bits are two words
                "$codecllm" compress "$model" -o "$work/model" --mode $mode --profile $profile >/dev/null || bad=1
                same_ppl "$work/model" "$model $mode $profile" || bad=1
            done
        done
    done
    return $bad
}

part_corrupt() {
    [ -x "$kernels" ] || skip "no bench_gpu_kernels in $build" || return
    say "$kernels" corrupt 2000
}

part_sanitize() {
    bad=0
    [ -x "$sanitizer" ] || skip "no compute-sanitizer" || return
    [ -x "$kernels" ] || skip "no bench_gpu_kernels in $build" || return
    say "$sanitizer" --tool memcheck --error-exitcode 9 "$kernels" corrupt 140 || bad=1
    say "$sanitizer" --tool racecheck --error-exitcode 9 "$kernels" corrupt 14 || bad=1
    if [ -x "$int8" ]; then
        say "$sanitizer" --tool memcheck --error-exitcode 9 "$int8" check
        code=$?
        [ $code -eq 0 ] || [ $code -eq 77 ] || bad=1
    fi
    first=${models# } first=${first%% *}
    "$codecllm" compress "$first" -o "$work/sanitized" --bpw 4.25 --profile fast >/dev/null || bad=1
    say "$sanitizer" --tool memcheck --error-exitcode 9 "$codecllm" bench model "$work/sanitized" --device cuda -p 40 -n 4 -r 1 || bad=1
    say "$sanitizer" --tool racecheck --error-exitcode 9 "$codecllm" run "$work/sanitized" --device cuda -p "Once upon a time" -n 2 --temp 0 || bad=1
    return $bad
}

part_gemv() { say "$codecllm" bench gemv -r "$repeat"; }
part_batch() { say "$codecllm" bench gemv --shape 4096x4096,14336x4096 -b 2,4,8 -r "$repeat"; }
part_decode() { say "$codecllm" bench decode --device cuda -r "$repeat"; }
# By turns, so that clocks and temperature fall on both alike.
part_trellis() {
    for round in 1 2; do
        for plain in "" --no-trellis; do
            # shellcheck disable=SC2086 # nothing or an option
            say "$codecllm" bench gemv --mode rd --bpw 4.25 $plain -r "$repeat" &&
                say "$codecllm" bench decode --device cuda --mode rd --bpw 4.25 $plain -r "$repeat" &&
                say "$codecllm" bench model --synthetic llama-3-8b --device cuda --mode rd --bpw 4.25 $plain -p 512 -n 128 -r "$repeat" || return
        done
    done
}
part_model_1b() { say "$codecllm" bench model --synthetic tinyllama-1.1b --device cuda --mode all --bpw 4.25,3.25,2.25 -p 512 -n 128 -r "$repeat"; }
part_model_8b() { say "$codecllm" bench model --synthetic llama-3-8b --device cuda --mode all --bpw 4.25,3.25,2.25 -p 512 -n 128 -r "$repeat"; }
part_context() { say "$codecllm" bench model --synthetic llama-3-8b --device cuda --bpw 4.25 -p 0 -n 128 -d 4096 -r "$repeat"; }

failures=0
: >"$work/summary"
for part in $parts; do
    echo
    echo "== $part"
    began=$(date +%s)
    "part_$(echo "$part" | tr - _)"
    code=$?
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
