"""Layers into "GPU" memory: the GPU library is tests/fake_backend.c, whose memory is the host's, and nvCOMP tests/fake_nvcomp.c. What crosses
to the library, who owns what, and what falls back are the same as on a GPU."""

import ctypes
import gc
import sys
import unittest
import warnings

import support

FOLDER = support.use_library(fake_gpu=True)

import numpy as np  # noqa: E402

import codecllm  # noqa: E402
from codecllm import zstd  # noqa: E402
from codecllm.codec import _warned  # noqa: E402

FAKE = support.fake_state(FOLDER)
RNG = np.random.default_rng(2)


def layer(rows=70, cols=200):
    return np.clip(np.round(RNG.normal(size=(rows, cols)) * 25), -128, 127).astype(np.int8)


class Decoding(unittest.TestCase):
    def tearDown(self):
        gc.collect()
        self.assertEqual((FAKE.tensors, FAKE.blocks), (0, 0))
        self.assertEqual(codecllm.Gpu.get().memory()["buffers"], 0)

    def test_layer(self):
        for codec in ("tile", "zstd"):
            q = layer()
            data, _ = codecllm.Encoder(codec, chunk_bytes=1008).encode_layer(q)
            checks = FAKE.checks
            t = codecllm.Decoder(strict=True).decode_layer_to_gpu(data)
            self.assertGreater(FAKE.checks, checks)  # corruption is looked for before it is handed out
            self.assertEqual((t.rows, t.cols, t.dtype, t.device, t.nbytes), (70, 200, "int8", "cuda:0", 14000))
            np.testing.assert_array_equal(np.ctypeslib.as_array((ctypes.c_int8 * 14000).from_address(t.data_ptr)).reshape(70, 200), q)
            np.testing.assert_array_equal(t.numpy(), q)
            del t

    def test_types(self):
        w = RNG.normal(size=(64, 256)).astype(np.float32)
        data, _ = codecllm.Encoder().encode_weights(w, bpw=5)
        t = codecllm.Decoder().decode_layer_to_gpu(data, "float16")
        tensor = codecllm.Tensor(codecllm.blob.parse(data).payload)
        np.testing.assert_array_equal(t.numpy(), tensor.decode("float16"))
        t = codecllm.Decoder().decode_layer_to_gpu(data, "bfloat16")
        np.testing.assert_array_equal(t.numpy(), tensor.decode("bfloat16"))
        with self.assertRaises(codecllm.ArgumentError):
            codecllm.Decoder().decode_layer_to_gpu(data, "float32")
        with self.assertRaises(codecllm.ArgumentError):
            codecllm.Decoder().decode_layer_to_gpu(codecllm.Encoder("zstd").encode_layer(layer())[0], "float16")
        del t

    def test_batch_is_one_call(self):
        layers = [layer(16 + i, 100 + 7 * i) for i in range(12)]
        blobs = [codecllm.Encoder("zstd" if i % 3 == 0 else "tile").encode_layer(q)[0] for i, q in enumerate(layers)]
        decodes, decoded, checks = FAKE.decodes, FAKE.decoded, FAKE.checks
        out = codecllm.Decoder(strict=True).decode_batch_to_gpu(blobs)
        self.assertEqual((FAKE.decodes - decodes, FAKE.decoded - decoded), (1, 8))
        self.assertEqual(FAKE.checks - checks, 1 + 4)  # one for the batch; one for the upload of each zstd layer
        for q, t in zip(layers, out, strict=True):
            np.testing.assert_array_equal(t.numpy(), q)
        self.assertEqual(codecllm.Decoder().decode_batch_to_gpu([]), [])
        del out, t

    def test_resident(self):
        gpu = codecllm.Gpu.get("cuda:1")
        self.assertIs(gpu, codecllm.Gpu.get(1))
        q = layer()
        matrix = gpu.upload(codecllm.Tensor(codecllm.encode_int8(q)))
        self.assertEqual(gpu.memory()["tensors"], matrix.device_bytes)
        for _ in range(3):
            t = matrix.decode()
            np.testing.assert_array_equal(t.numpy(), q)
        self.assertEqual(gpu.memory()["buffers"], q.size)
        del t, matrix
        self.assertEqual(gpu.memory()["tensors"], 0)

    def test_zstd_again_and_again(self):
        gpu = codecllm.Gpu.get()
        q = [layer(), layer(30, 50)]
        resident = [zstd.GpuZstd(gpu, codecllm.blob.parse(codecllm.Encoder("zstd", chunk_bytes=784).encode_layer(x)[0])) for x in q]
        out = [gpu.buffer(*x.shape) for x in q]
        batch = zstd.ZstdBatch(resident, [o.data_ptr for o in out], 0)
        for _ in range(3):
            for x, o in zip(q, out):
                o.write(np.zeros(x.shape, np.int8))
            batch.run()
            batch.check()
            for x, o in zip(q, out):
                np.testing.assert_array_equal(o.numpy(), x)
        # a chunk that is damaged on the device is told by its status
        resident[0]._memory.write(np.zeros(resident[0]._memory.shape, np.int8))
        batch.run()
        with self.assertRaises(codecllm.FormatError):
            batch.check()

    def test_thousand_decodes(self):
        data, _ = codecllm.Encoder().encode_layer(layer(16, 128))
        decoder = codecllm.Decoder(strict=True)
        for _ in range(1000):
            decoder.decode_layer_to_gpu(data)
        self.assertEqual(FAKE.blocks, 0)

    def test_corruption(self):
        data = bytearray(codecllm.Encoder().encode_layer(layer())[0])
        data[-3000:-1000] = b"\xff" * 2000
        with self.assertRaises(codecllm.FormatError):
            codecllm.Decoder().decode_layer_to_gpu(data)  # the checksum
        with self.assertRaises(codecllm.FormatError):
            codecllm.Decoder(verify=False).decode_layer_to_gpu(data)  # the kernels
        data = bytearray(codecllm.Encoder("zstd").encode_layer(layer())[0])
        data[-40] ^= 1
        with self.assertRaises(codecllm.FormatError):
            codecllm.Decoder(verify=False).decode_layer_to_gpu(data)  # nvCOMP is never given what fails its checksum


class Views(unittest.TestCase):
    def setUp(self):
        self.q = layer()
        self.t = codecllm.Decoder(strict=True).decode_layer_to_gpu(codecllm.Encoder().encode_layer(self.q)[0])

    def tearDown(self):
        self.t = None
        gc.collect()
        self.assertEqual(FAKE.blocks, 0)

    def test_numpy_takes_it(self):
        view = np.from_dlpack(self.t)
        self.assertEqual(view.ctypes.data, self.t.data_ptr)
        self.t = None
        gc.collect()
        self.assertEqual(FAKE.blocks, 1)  # the view is an owner
        np.testing.assert_array_equal(view, self.q)
        del view

    def test_capsules_nobody_takes(self):
        for version in (None, (0, 8), (1, 0), (1, 3)):
            capsule = self.t.__dlpack__(max_version=version)
            self.assertIn("dltensor_versioned" if version and version[0] == 1 else '"dltensor"', repr(capsule))
            references = sys.getrefcount(capsule)
            del capsule
            self.assertGreaterEqual(references, 2)
        self.t = None
        gc.collect()
        self.assertEqual(FAKE.blocks, 0)

    def test_capsules_do_not_grow(self):
        for _ in range(2000):
            self.t.__dlpack__(max_version=(1, 0))
            np.from_dlpack(self.t)
        before = support.resident_bytes()
        for _ in range(20000):
            self.t.__dlpack__(max_version=(1, 0))
            np.from_dlpack(self.t)
        self.assertLess(support.resident_bytes() - before, 1 << 20)

    def test_refusals(self):
        with self.assertRaises(BufferError):
            self.t.__dlpack__(copy=True)
        with self.assertRaises(BufferError):
            self.t.__dlpack__(dl_device=(2, 0))
        self.assertIsNotNone(self.t.__dlpack__(dl_device=(1, 0), copy=False))

    def test_streams(self):
        """What its memory says of itself as CUDA's; nothing looks at the pointers."""
        FAKE.cuda_memory = True
        try:
            codecllm.Gpu._all.clear()
            t = codecllm.Decoder(strict=True).decode_layer_to_gpu(codecllm.Encoder().encode_layer(self.q)[0], stream=0x30)
            self.assertEqual(t.__dlpack_device__(), (2, 0))
            orders = FAKE.orders
            t.__dlpack__(stream=0x30)
            t.__dlpack__(stream=-1)
            self.assertEqual(FAKE.orders, orders)
            t.__dlpack__(stream=0x40)
            t.__dlpack__(stream=None)
            t.__dlpack__(stream=1)
            self.assertEqual(FAKE.orders, orders + 3)
            for stream in (0, -2):
                with self.assertRaises(BufferError):
                    t.__dlpack__(stream=stream)
            interface = t.__cuda_array_interface__
            self.assertEqual((interface["data"], interface["shape"], interface["typestr"], interface["stream"]), ((t.data_ptr, False), (70, 200), "|i1", 0x30))
            orders = FAKE.orders
            del t
            self.assertEqual(FAKE.orders, orders + 2)  # the memory waits for both streams that it was handed to
        finally:
            FAKE.cuda_memory = False
            codecllm.Gpu._all.clear()


class Fallback(unittest.TestCase):
    def test_out_of_memory(self):
        q = layer()
        data, _ = codecllm.Encoder().encode_layer(q)
        FAKE.refuse_alloc = 4
        _warned.clear()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for _ in range(2):
                    t = codecllm.Decoder().decode_layer_to_gpu(data)
            with self.assertRaises(codecllm.OutOfMemory):
                codecllm.Decoder(strict=True).decode_layer_to_gpu(data)
        finally:
            FAKE.refuse_alloc = 0
        self.assertEqual([w.category for w in caught], [codecllm.FallbackWarning])
        self.assertIn("refused on purpose", str(caught[0].message))
        self.assertEqual(t.device, "cpu")
        np.testing.assert_array_equal(t.numpy(), q)

    def test_chunks_that_nvcomp_does_not_take(self):
        q = layer()
        data, _ = codecllm.Encoder("zstd", chunk_bytes=1001).encode_layer(q)
        with self.assertRaisesRegex(codecllm.Unsupported, "multiple of 16"):
            codecllm.Decoder(strict=True).decode_layer_to_gpu(data)
        with self.assertWarns(codecllm.FallbackWarning):
            np.testing.assert_array_equal(codecllm.Decoder().decode_layer_to_gpu(data).numpy(), q)

    def test_no_such_device(self):
        data, _ = codecllm.Encoder().encode_layer(layer())
        with self.assertRaises(codecllm.Unsupported) as raised:
            codecllm.Decoder("cuda:2", strict=True).decode_layer_to_gpu(data)
        self.assertIn("there are only 2 devices", str(raised.exception))
        with self.assertRaises(codecllm.ArgumentError):
            codecllm.Decoder("gpu").decode_layer_to_gpu(data)


if __name__ == "__main__":
    support.main()
