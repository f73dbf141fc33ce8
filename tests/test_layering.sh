#!/bin/sh
# The includes obey the layering law, and the check would notice if they did not.
set -u
here=${CLLM_SOURCE:-$(cd "$(dirname "$0")/.." && pwd)}
"$here/script/check-layers" "$here" || exit 1

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
expect_refused() {
    rm -rf "$copy/src" "$copy/cli"
    mkdir -p "$copy/src/$1" "$copy/cli"
    echo "$2" >"$copy/src/$1/bad.${3:-c}"
    if "$here/script/check-layers" "$copy" >/dev/null; then
        echo "check-layers does not notice $2 in src/$1"
        exit 1
    fi
}
expect_refused base '#include "codec/codec.h"'
expect_refused codec '#include "container/dir.h"'
expect_refused model '#  include "engine/backend.h"'
expect_refused engine '#include "cpu/cpu.h"'
expect_refused engine '#include "convert/output.h"'
expect_refused cpu '#include "container/dir.h"'
expect_refused model '#include "../engine/backend.h"'
expect_refused codec '#include "codec.h"'
expect_refused cuda '#include "engine/engine.h"' cu
echo "layering: OK"
