# Shared by the tests of the command line. CLLM_SOURCE and CLLM_BUILD come from ctest.
set -u
codecllm=${CLLM_BUILD:?}/codecllm
tiny=${CLLM_SOURCE:?}/models/tiny
[ -x "$codecllm" ] || { echo "no $codecllm"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

complain() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# expect CODE ARGUMENTS...: runs codecllm; standard output in $work/out, errors in $work/err.
expect() {
    wanted=$1
    shift
    "$codecllm" "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    if [ $got -ne "$wanted" ]; then
        complain "codecllm $*: exit code $got, not $wanted"
        head -n 20 "$work/out" "$work/err"
        return 1
    fi
}

# says PATTERN: the last errors hold it (extended regular expression).
says() { grep -Eq -- "$1" "$work/err" || { complain "no '$1' in: $(cat "$work/err")"; }; }
# prints PATTERN: the last output holds it.
prints() { grep -Eq -- "$1" "$work/out" || { complain "no '$1' in: $(head -c 2000 "$work/out")"; }; }
# json FILTER: the last output is JSON and the filter gives true.
json() {
    result=$(jq -e "$1" "$work/out" 2>&1) && [ "$result" = true ] || complain "jq '$1' gives $result on: $(head -c 2000 "$work/out")"
}

finish() {
    [ $failures -eq 0 ] || { echo "$failures failed"; exit 1; }
    echo "OK"
    exit 0
}
