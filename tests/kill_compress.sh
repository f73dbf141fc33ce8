#!/bin/sh
# Kills `codecllm compress` at random moments. What is left must never pass `verify` unless it is the whole result, and --resume must
# end in the bytes of an undisturbed run.
#
#   tests/kill_compress.sh CODECLLM MODEL_DIR [COUNT [MODE...]]      COUNT kills (100), the modes in turn (lossless int8 rd)
set -u
if [ $# -lt 2 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
codecllm=$1
model=$2
count=${3:-100}
if [ $# -gt 3 ]; then shift 3; else set -- lossless int8 rd; fi

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED (kill $n, mode $mode): $*" >&2
    exit 1
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }

n=0
for mode in "$@"; do
    start=$(now_ms)
    "$codecllm" compress "$model" -o "$work/whole-$mode" --mode "$mode" >/dev/null 2>&1 || fail "undisturbed run: $?"
    eval "ms_$mode=$(($(now_ms) - start + 5))"
    "$codecllm" verify "$work/whole-$mode" >/dev/null 2>&1 || fail "verify refuses the undisturbed run"
done

in_time=0
resumed=0
while [ "$n" -lt "$count" ]; do
    for mode in "$@"; do
        [ "$n" -lt "$count" ] || break
        n=$((n + 1))
        eval "ms=\$ms_$mode"
        out=$work/out
        rm -rf "$out" "$out.partial"
        kills=$(($(od -An -N1 -tu1 /dev/urandom) % 3 + 1)) # some runs are killed again while they resume
        while [ "$kills" -gt 0 ]; do
            kills=$((kills - 1))
            delay=$(($(od -An -N4 -tu4 /dev/urandom) % ms))
            "$codecllm" compress "$model" -o "$out" --mode "$mode" --resume >/dev/null 2>&1 &
            pid=$!
            sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
            kill -9 "$pid" 2>/dev/null && in_time=$((in_time + 1))
            wait "$pid" 2>/dev/null
            if [ -e "$out.partial" ] && "$codecllm" verify "$out.partial" >/dev/null 2>&1; then
                fail "verify accepts an unfinished directory"
            fi
            if [ -e "$out" ]; then
                diff -r "$work/whole-$mode" "$out" >/dev/null || fail "a result that is not whole was put in place"
                break
            fi
        done
        if [ ! -e "$out" ]; then
            [ -e "$out.partial" ] && resumed=$((resumed + 1))
            "$codecllm" compress "$model" -o "$out" --mode "$mode" --resume >"$work/log" 2>&1 || fail "--resume: $(cat "$work/log")"
        fi
        diff -r "$work/whole-$mode" "$out" || fail "--resume ends in other bytes"
        [ ! -e "$out.partial" ] || fail "an unfinished directory is left over"
        "$codecllm" verify "$out" >/dev/null 2>&1 || fail "verify refuses the result"
    done
done
echo "ok: $n runs, $in_time kills in time, $resumed resumed; every result as undisturbed"
