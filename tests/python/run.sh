#!/bin/sh
# Runs one Python test with an interpreter that has NumPy: CLLM_PYTHON, python3, or the system's. 77 is ctest's word for "skipped".
for python in ${CLLM_PYTHON:-} python3 /usr/bin/python3; do
    if "$python" -c 'import sys, numpy; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
        exec "$python" -B "$@"
    fi
done
echo "skipped: no Python 3.10 or later with NumPy (script/setup test installs python3-numpy)"
exit 77
