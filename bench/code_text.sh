#!/bin/sh
# Source code as a text to measure models on, beside prose: C and Python of this project, always the same bytes.
#
#     bench/code_text.sh >code.txt
#
# Eight whole files, as one commit of the history has them, in this order. A later edit of them changes nothing here, so that figures of
# different days compare. It needs a clone with its history; a shallow one gets it by `git fetch --unshallow`.
set -eu
cd "$(dirname "$0")/.."
commit=8b094468ec7c905afb40be9f81f03d135ef06c37
checksum=1d26d1c8c16e3ff05cd44af0fe211cf651c86f1f47f3a168ae86d88645097bae
git cat-file -e "$commit^{commit}" 2>/dev/null || {
    echo "code_text.sh: commit $commit is not here; it takes a clone with its history (git fetch --unshallow)" >&2
    exit 1
}
text=$(mktemp)
trap 'rm -f "$text"' EXIT
for file in src/codec/rate.c python/codecllm/torch/weight.py src/codec/quantize.c python/codecllm/blob.py src/base/threads.c \
    python/codecllm/torch/paths.py src/codec/table.c python/setup.py; do
    git show "$commit:$file"
done >"$text"
echo "$checksum  $text" | sha256sum -c --status || {
    echo "code_text.sh: the text is not the one that was measured before (its SHA-256 differs)" >&2
    exit 1
}
cat "$text"
