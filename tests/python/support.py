"""What the Python tests share: the library of the build under test, the stand-in for a GPU, and how they are run and counted.

CLLM_BUILD names the build. Each file is a program of its own, because a process loads the library once.
"""

import atexit
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import unittest

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("CLLM_BUILD", os.path.join(SOURCE, "build"))
with open(os.path.join(SOURCE, "python", "codecllm", "_native.py")) as source:
    SONAME = re.search(r'^SONAME = "(.*)"', source.read(), re.MULTILINE).group(1)
TINY = os.path.join(SOURCE, "models", "tiny")


def use_library(fake_gpu):
    """Lets `import codecllm` find the build's library, with or without the stand-in for a GPU library beside it."""
    folder = tempfile.mkdtemp(prefix="cllm-python-")
    atexit.register(shutil.rmtree, folder, True)
    shutil.copy(os.path.join(BUILD, SONAME), folder)
    if fake_gpu:
        shutil.copy(os.path.join(BUILD, "fake", "libcodecllm_cuda.so"), folder)
        os.environ["CODECLLM_NVCOMP"] = os.path.join(BUILD, "fake", "libfake_nvcomp.so")
    os.environ["CODECLLM_LIBRARY"] = os.path.join(folder, SONAME)
    sys.path.insert(0, os.path.join(SOURCE, "python"))
    return folder


def fake_state(folder):
    """The counters of tests/fake_backend.h in the stand-in library."""
    import ctypes

    class State(ctypes.Structure):
        _fields_ = [
            ("probes", ctypes.c_int), ("models", ctypes.c_int), ("forwards", ctypes.c_int), ("greedies", ctypes.c_int),
            ("kv_f32", ctypes.c_bool), ("device", ctypes.c_char * 16), ("refuse_model", ctypes.c_int), ("no_numbers", ctypes.c_bool),
            ("gpus", ctypes.c_int), ("tensors", ctypes.c_int), ("blocks", ctypes.c_int), ("decodes", ctypes.c_int),
            ("decoded", ctypes.c_int), ("multiplies", ctypes.c_int), ("multiplied", ctypes.c_int), ("orders", ctypes.c_int),
            ("checks", ctypes.c_int), ("trims", ctypes.c_int), ("refuse_alloc", ctypes.c_int), ("cuda_memory", ctypes.c_bool),
        ]

    return State.in_dll(ctypes.CDLL(os.path.join(folder, "libcodecllm_cuda.so")), "fake")


def resident_bytes():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def need(*modules):
    """Ends the program as skipped where a module is missing."""
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        print(f"skipped: no {' and no '.join(missing)} for {sys.executable}")
        sys.exit(77)


def main():
    result = unittest.main(module="__main__", exit=False, verbosity=2).result
    for test, reason in result.skipped:
        print(f"skipped: {test.id().split('.')[-1]}: {reason}")
    if result.skipped:
        print(f" {len(result.skipped)} SKIPPED TEST(S)")
    if not result.testsRun:
        print("no test ran")
    sys.stdout.flush()
    sys.exit(0 if result.wasSuccessful() and result.testsRun else 1)
