"""examples/torch_inference.py on the CPU: it runs, its table is whole, and every path gives the text of the decoded weights."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import support

support.need("numpy", "torch", "transformers")
support.use_library(fake_gpu=False)


class Example(unittest.TestCase):
    def run_example(self, *arguments):
        with tempfile.TemporaryDirectory() as work:
            out = os.path.join(work, "table.json")
            program = os.path.join(support.SOURCE, "examples", "torch_inference.py")
            # One thread: torch's many are slow where ctest runs other tests beside this one.
            environment = {**os.environ, "PYTHONPATH": os.path.join(support.SOURCE, "python"), "OMP_NUM_THREADS": "1"}
            run = [sys.executable, "-B", program, *arguments, "--device", "cpu", "--dtype", "float32", "--json", out]
            ran = subprocess.run(run, env=environment, capture_output=True, text=True)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
            with open(out) as f:
                return json.load(f), ran.stdout + ran.stderr

    def test_directory(self):
        rows, text = self.run_example(support.TINY, "--tokens", "2", "5", "--repeat", "1")
        self.assertEqual(len(rows), 2 * (1 + 6 + 3))
        self.assertEqual({r["same"] for r in rows if r["path"] != "baseline"}, {"yes"})
        self.assertEqual([r["tokens"] for r in rows], [2] * 10 + [5] * 10)
        self.assertTrue(all(r["seconds"] > 0 for r in rows))
        self.assertIn("| tile | fused |", text)
        self.assertIn("runs on the CPU: its input is on cpu", text)

    def test_synthetic(self):
        rows, text = self.run_example("--synthetic", "mini", "--tokens", "5", "--codecs", "tile", "--paths", "cpu", "fused", "--profile", "cpu")
        self.assertEqual([(r["codec"], r["path"], r["same"]) for r in rows], [("-", "baseline", ""), ("tile", "cpu", "yes"), ("tile", "fused", "yes")])
        self.assertIn("22 linears", text)
        self.assertIn("23 compressed, 0 kept", text)
        self.assertIn("profile of cpu", text)

    def test_usage(self):
        program = os.path.join(support.SOURCE, "examples", "torch_inference.py")
        environment = {**os.environ, "PYTHONPATH": os.path.join(support.SOURCE, "python")}
        ran = subprocess.run([sys.executable, "-B", program], env=environment, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 2)
        self.assertIn("a model directory, or --synthetic", ran.stderr)


if __name__ == "__main__":
    support.main()
