# compress, killed at any moment, leaves nothing that verify takes for a model, and --resume ends in the same bytes as an undisturbed run.
# CLLM_KILLS sets how often (default 12).
. "$(dirname "$0")/lib.sh"
kills=${CLLM_KILLS:-12}
[ -n "${CLLM_SANITIZE:-}" ] && kills=2
options="--bpw 4.5 --shard-size 1MB"

start=$(date +%s%N)
# shellcheck disable=SC2086 # several words
expect 0 compress "$tiny" -o "$work/whole" $options
duration=$(($(date +%s%N) - start))

i=0
while [ $i -lt "$kills" ]; do
    i=$((i + 1))
    rm -rf "$work/out1" "$work/out1.partial"
    # Spread over the whole run, and a little beyond its end.
    delay=$(awk "BEGIN { printf \"%.4f\", $duration / 1e9 * 1.05 * $i / $kills }")
    # shellcheck disable=SC2086
    "$codecllm" compress "$tiny" -o "$work/out1" $options >/dev/null 2>&1 &
    pid=$!
    sleep "$delay"
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
    for left in "$work/out1" "$work/out1.partial"; do
        [ -e "$left" ] || continue
        if "$codecllm" verify "$left" >/dev/null 2>&1; then
            diff -r "$work/whole" "$left" >/dev/null || complain "kill after $delay s: verify accepts a part"
        fi
    done
    [ -e "$work/out1" ] && continue # it was done already
    # shellcheck disable=SC2086
    expect 0 compress "$tiny" -o "$work/out1" $options --resume
    diff -r "$work/whole" "$work/out1" || complain "kill after $delay s: --resume ends in other bytes"
    [ ! -e "$work/out1.partial" ] || complain "a .partial is left over"
done

# Ctrl-C: exit code 130, and the same again. Without --foreground timeout signals the command and then its whole group, and a second
# Ctrl-C means to leave at once.
rm -rf "$work/out1" "$work/out1.partial"
# shellcheck disable=SC2086
timeout --foreground -s INT "$(awk "BEGIN { printf \"%.4f\", $duration / 1e9 / 2 }")" "$codecllm" compress "$tiny" -o "$work/out1" $options >/dev/null 2>"$work/err"
code=$?
if [ ! -e "$work/out1" ]; then
    says 'interrupted'
    # timeout answers 124 where the command ended for its signal
    [ $code -eq 124 ] || [ $code -eq 130 ] || complain "Ctrl-C gives exit code $code"
    # shellcheck disable=SC2086
    expect 0 compress "$tiny" -o "$work/out1" $options --resume
    diff -r "$work/whole" "$work/out1" || complain "after Ctrl-C --resume ends in other bytes"
fi
finish
