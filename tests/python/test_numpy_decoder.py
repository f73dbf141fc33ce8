"""The NumPy decoder of tests/reference, which was written from docs/FORMAT.md alone, against the vectors and against the library."""

import json
import os
import sys
import unittest

import support

support.use_library(fake_gpu=False)
sys.path.insert(0, os.path.join(support.SOURCE, "tests", "reference"))

import numpy as np  # noqa: E402
import numpy_decoder  # noqa: E402

import codecllm  # noqa: E402

VECTORS = os.path.join(support.SOURCE, "docs", "vectors")


def read(name):
    with open(os.path.join(VECTORS, name), "rb") as f:
        return f.read()


class NumpyDecoder(unittest.TestCase):
    def agree(self, data, name):
        tensor = codecllm.Tensor(data)
        elements, weights = numpy_decoder.decode(data)
        self.assertEqual(tensor.decode().tobytes(), elements.tobytes(), name)
        np.testing.assert_array_equal(tensor.decode("float32"), weights, name)
        return tensor

    def test_vectors(self):
        entries = json.loads(read("index.json"))["valid"]
        self.assertGreater(sum(e["trellis"] for e in entries), 20)
        for e in entries:
            with np.errstate(all="ignore"):
                self.agree(read(e["file"]), e["file"])
            self.assertEqual(numpy_decoder.decode(read(e["file"]))[0].tobytes(), read(e["elements"]), e["file"])

    def test_what_the_encoder_makes(self):
        store, seen = codecllm.Store(support.TINY), set()
        for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
            e = store[name]
            bits = np.frombuffer(e.data, np.uint16).reshape(e.shape)
            for bpw in (3.0, 4.5, 8.5):
                for profile in ("small", "fast"):
                    tensor = self.agree(codecllm.encode(bits, bpw=bpw, dtype="bfloat16", profile=profile), (name, bpw, profile))
                    self.assertEqual(tensor.mode, "rd")
                    seen.add((tensor.trellis, tensor.info.fold))
        self.assertTrue({(True, True), (True, False)} <= seen, seen)


if __name__ == "__main__":
    support.main()
