"""`pip install ./python` from the libraries of this build: what is installed works by itself. Skipped where pip or setuptools is missing."""

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import support

support.need("numpy", "pip", "setuptools")
if importlib.util.find_spec("wheel") is None and importlib.util.find_spec("setuptools.command.bdist_wheel") is None:
    support.need("wheel")

PROGRAM = """
import numpy as np, codecllm, os
assert os.path.dirname(codecllm.__file__).startswith(os.environ["WHERE"]), codecllm.__file__
assert codecllm.library_version() == codecllm.__version__
q = np.arange(-60, 60, dtype=np.int8).reshape(4, 30)
for codec in ("tile", "zstd"):
    data, ratio = codecllm.Encoder(codec).encode_layer(q)
    assert (codecllm.Decoder().decode_layer(data) == q).all()
try:
    codecllm.Gpu.get(0)
except codecllm.Unsupported as e:
    print(e)
"""


class Wheel(unittest.TestCase):
    def test_wheel(self):
        work = tempfile.mkdtemp(prefix="cllm-wheel-")
        self.addCleanup(shutil.rmtree, work)
        # A copy of the sources: building leaves folders beside them.
        shutil.copytree(os.path.join(support.SOURCE, "python"), os.path.join(work, "python"), ignore=shutil.ignore_patterns("build", "*.egg-info"))
        environment = {**os.environ, "CODECLLM_PREBUILT": support.BUILD, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        run = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", work, os.path.join(work, "python")]
        made = subprocess.run(run, env=environment, capture_output=True, text=True)
        self.assertEqual(made.returncode, 0, made.stdout + made.stderr)
        (wheel,) = glob.glob(os.path.join(work, "*.whl"))
        self.assertIn("py3-none-linux", wheel)
        where = os.path.join(work, "installed")
        shutil.unpack_archive(wheel, where, "zip")
        carried = os.listdir(os.path.join(where, "codecllm", "lib"))
        for name in (support.SONAME, "libjansson.so.4", "libpcre2-8.so.0", "libutf8proc", "libxxhash.so.0", "libzstd.so.1"):
            self.assertTrue(any(c.startswith(name) for c in carried), (name, carried))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CODECLLM_")}
        environment.update(WHERE=where, PYTHONPATH=where)
        ran = subprocess.run([sys.executable, "-B", "-c", PROGRAM], env=environment, cwd=work, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    def test_a_folder_without_libraries_is_refused(self):
        work = tempfile.mkdtemp(prefix="cllm-wheel-")
        self.addCleanup(shutil.rmtree, work)
        shutil.copytree(os.path.join(support.SOURCE, "python"), os.path.join(work, "python"), ignore=shutil.ignore_patterns("build", "*.egg-info"))
        run = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", work, os.path.join(work, "python")]
        made = subprocess.run(run, env={**os.environ, "CODECLLM_PREBUILT": work}, capture_output=True, text=True)
        self.assertNotEqual(made.returncode, 0)
        self.assertIn(f"has no {support.SONAME}", made.stdout + made.stderr)


if __name__ == "__main__":
    support.main()
