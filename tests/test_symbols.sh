#!/bin/sh
# The shared library exports cllm_* only, all of the public header, and calls nothing that prints, ends the process or reads the environment.
set -u
library=${CLLM_BUILD:?}/libcodecllm.so
header=${CLLM_SOURCE:?}/include/codecllm.h
code=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nm -D --defined-only "$library" | awk '{print $NF}' | sed 's/@.*//' | sort -u >"$work/exported"
if grep -v '^cllm_' "$work/exported"; then
    echo "the names above are exported and do not begin with cllm_"
    code=1
fi
# Declarations may run over several lines: join them, then take the name before the first parenthesis.
tr '\n' ' ' <"$header" | sed 's/CLLM_API/\n&/g' | sed -n 's/^CLLM_API [^(]*[ *]\(cllm_[a-z0-9_]*\)(.*/\1/p' | sort -u >"$work/public"
[ -s "$work/public" ] || { echo "no declarations found in $header"; exit 1; }
comm -23 "$work/public" "$work/exported" >"$work/missing"
comm -13 "$work/public" "$work/exported" >"$work/extra"
if [ -s "$work/missing" ]; then
    echo "declared, but not exported:" && cat "$work/missing"
    code=1
fi
if [ -s "$work/extra" ]; then
    echo "exported, but not declared in codecllm.h:" && cat "$work/extra"
    code=1
fi
forbidden='^(printf|vprintf|puts|putchar|perror|__printf_chk|__vprintf_chk|exit|_exit|_Exit|quick_exit|abort|__assert_fail|getenv|secure_getenv|stdout|stderr|stdin|system)$'
if nm -D --undefined-only "$library" | awk '{print $NF}' | sed 's/@.*//' | grep -E "$forbidden"; then
    echo "the library uses the names above: it must not print, end the process or read the environment"
    code=1
fi
[ $code -eq 0 ] && echo "symbols: OK ($(wc -l <"$work/exported") exported)"
exit $code
