"""Layers to bytes and back on the CPU: round trips, what is refused, damaged bytes, and that nothing grows."""

import json
import os
import struct
import unittest
import warnings
import zlib

import support

support.use_library(fake_gpu=False)

import numpy as np  # noqa: E402

import codecllm  # noqa: E402
from codecllm import blob  # noqa: E402
from codecllm.codec import _warned  # noqa: E402

RNG = np.random.default_rng(1)


def layer(rows=70, cols=200, spread=25):
    return np.clip(np.round(RNG.normal(size=(rows, cols)) * spread), -128, 127).astype(np.int8)


def resealed(data):
    """A blob whose header was changed, with checksums that fit again: what is wrong must be found by itself."""
    data = bytearray(data)
    data[32:36] = struct.pack("<I", zlib.crc32(data[64:]))
    data[36:40] = bytes(4)
    data[36:40] = struct.pack("<I", zlib.crc32(data[:64]))
    return bytes(data)


class RoundTrips(unittest.TestCase):
    def test_integers_come_back(self):
        for codec in ("tile", "zstd"):
            for rows, cols, spread in ((1, 1, 5), (3, 7, 1), (16, 128, 30), (100, 513, 30), (64, 64, 1000), (33, 40, 0)):
                q = layer(rows, cols, spread)
                scales = RNG.uniform(0.001, 0.1, rows).astype(np.float32)
                data, ratio = codecllm.Encoder(codec, threads=1).encode_layer(q, scales)
                self.assertAlmostEqual(ratio, q.nbytes / len(data))
                decoder = codecllm.Decoder(threads=1)
                got = decoder.decode_layer(data)
                self.assertEqual(got.dtype, np.int8)
                np.testing.assert_array_equal(got, q)
                np.testing.assert_array_equal(decoder.scales(data), scales)

    def test_extremes(self):
        q = np.array([[-128, 127, 0, -1] * 40] * 20, np.int8)
        for codec in ("tile", "zstd"):
            np.testing.assert_array_equal(codecllm.Decoder().decode_layer(codecllm.Encoder(codec).encode_layer(q)[0]), q)

    def test_gaussian_int8_shrinks(self):
        w = RNG.normal(size=(256, 1024))
        q = np.round(w / np.abs(w).max(1, keepdims=True) * 127).astype(np.int8)
        ratios = {codec: codecllm.Encoder(codec).encode_layer(q)[1] for codec in ("tile", "zstd")}
        self.assertGreater(ratios["tile"], 1.05)
        self.assertGreater(ratios["zstd"], 1.05)

    def test_views_and_other_buffers(self):
        q = layer(40, 300)
        data, _ = codecllm.Encoder().encode_layer(q[::2, 1::3])  # not contiguous
        for form in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
            np.testing.assert_array_equal(codecllm.Decoder().decode_layer(form), q[::2, 1::3])

    def test_chunks(self):
        q = layer(61, 97)
        whole = q.size
        for chunk in (1, 100, whole - 1, whole, whole + 1):
            data, _ = codecllm.Encoder("zstd", chunk_bytes=chunk).encode_layer(q)
            self.assertEqual(len(blob.parse(data).frames), -(-whole // chunk))
            np.testing.assert_array_equal(codecllm.Decoder(threads=3).decode_layer(data), q)

    def test_weights(self):
        w = RNG.normal(size=(64, 256)).astype(np.float32)
        data, ratio = codecllm.Encoder().encode_weights(w, bpw=5.0)
        self.assertAlmostEqual(32 / ratio, 5.0, delta=0.1)
        decoder = codecllm.Decoder()
        q, scales = decoder.decode_layer(data), decoder.scales(data)
        self.assertLess(np.abs(q * scales[:, None] - w).max(), 0.2)
        halves = w.astype(np.float16)
        data, _ = codecllm.Encoder().encode_weights(halves, mode="lossless")
        np.testing.assert_array_equal(decoder.decode_layer(data), halves)
        self.assertIsNone(decoder.scales(data))
        bits = (w.view(np.uint32) >> 16).astype(np.uint16)
        data, _ = codecllm.Encoder().encode_weights(bits, mode="lossless", dtype="bfloat16")
        np.testing.assert_array_equal(decoder.decode_layer(data), bits)

    def test_tensor(self):
        w = RNG.normal(size=(48, 130)).astype(np.float32)
        t = codecllm.Tensor(codecllm.encode(w, bpw=6))
        self.assertEqual((t.shape, t.mode, t.source_dtype, t.natural_dtype), ((48, 130), "rd", "float32", "int8"))
        whole = t.decode("float32")
        np.testing.assert_array_equal(t.decode("float32", 10, 5), whole[10:15])
        out = np.empty((48, 130), np.float16)
        self.assertIs(t.decode("float16", out=out), out)
        np.testing.assert_array_equal(t.decode("int8") * t.row_scales()[:, None], whole)
        for arguments in (("float32", 40, 9), ("float32", -1, 3), ("int4",)):
            with self.assertRaises(codecllm.ArgumentError):
                t.decode(*arguments)
        with self.assertRaises(codecllm.ArgumentError):
            t.decode("float32", out=out)
        weighted = codecllm.Tensor(codecllm.encode(w, bpw=6, col_weight=np.linspace(1, 4, 130)))
        self.assertEqual(weighted.col_scales().shape, (130,))
        self.assertIsNone(t.col_scales())

    def test_trellis(self):
        w = RNG.normal(size=(256, 512)).astype(np.float32)
        bits, error = {}, {}
        for trellis in (True, False):
            t = codecllm.Tensor(codecllm.encode(w, bpw=4.5, trellis=trellis))
            self.assertEqual((t.trellis, t.info.trellis), (trellis, trellis))
            bits[trellis], error[trellis] = t.bits_per_weight, np.square(t.decode("float32") - w).mean()
            again, _ = codecllm.Encoder().encode_weights(w, trellis=trellis)
            self.assertEqual(codecllm.Tensor(again[blob.HEADER_BYTES :]).trellis, trellis)
        self.assertAlmostEqual(bits[True], bits[False], delta=0.05)
        self.assertLess(error[True], 0.85 * error[False])

    def test_store(self):
        store = codecllm.Store(support.TINY)
        self.assertEqual(len(store), 6 * 9 + 2)
        e = store["model.norm.weight"]
        self.assertEqual((e.dtype, e.shape, e.coded, e.nbytes), ("BF16", (256,), False, 512))
        data = e.data
        del store, e
        self.assertEqual(data.size, 512)  # the map lives as long as its data
        self.assertTrue(np.isfinite((data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)).all())
        with self.assertRaises(ValueError):
            data[0] = 1
        with self.assertRaises(codecllm.FileError):
            codecllm.Store("/nowhere/at/all")
        with self.assertRaises(KeyError):
            codecllm.Store(support.TINY)["lm_head.weight"]


class Vectors(unittest.TestCase):
    """docs/vectors, by its index."""

    FOLDER = os.path.join(support.SOURCE, "docs", "vectors")

    def setUp(self):
        with open(os.path.join(self.FOLDER, "index.json")) as f:
            self.index = json.load(f)

    def read(self, name):
        with open(os.path.join(self.FOLDER, name), "rb") as f:
            return f.read()

    def test_tensors(self):
        for entry in self.index["valid"]:
            t = codecllm.Tensor(self.read(entry["file"]))
            dtype = np.dtype({"i8": "i1", "i16": "<i2", "u16": "<u2", "f32": "<f4"}[entry["elements_type"]])
            want = np.frombuffer(self.read(entry["elements"]), dtype).reshape(entry["rows"], entry["cols"])
            self.assertEqual(t.decode().tobytes(), want.tobytes(), entry["file"])

    def test_layers(self):
        self.assertGreater(len(self.index["layer-valid"]), 8)
        for entry in self.index["layer-valid"]:
            data, decoder = self.read(entry["file"]), codecllm.Decoder(threads=1)
            got = decoder.decode_layer(data)
            self.assertEqual((got.shape, got.tobytes()), ((entry["rows"], entry["cols"]), self.read(entry["elements"])), entry["file"])
            self.assertEqual(blob.CODEC_NAMES[blob.parse(data).codec], entry["codec"])
            if entry["codec"] == "zstd":
                scales = decoder.scales(data)
                self.assertEqual(scales is None, entry["scales"] is None)
                self.assertTrue(scales is None or scales.tobytes() == self.read(entry["scales"]))

    def test_layers_that_must_be_refused(self):
        self.assertGreater(len(self.index["layer-reject"]), 40)
        for entry in self.index["layer-reject"]:
            with self.assertRaises(codecllm.FormatError, msg=entry["file"]) as raised:
                codecllm.Decoder(threads=1).decode_layer(self.read(entry["file"]))
            first, last = entry["position"]
            self.assertTrue(first <= raised.exception.position <= last, (entry, str(raised.exception), raised.exception.position))


class Refusals(unittest.TestCase):
    def test_arguments(self):
        encoder = codecllm.Encoder()
        for bad in (layer().astype(np.int16), layer()[0], np.zeros((0, 4), np.int8), np.zeros((4, 0), np.int8), np.zeros((2, 2, 2), np.int8)):
            for codec in ("tile", "zstd"):
                with self.assertRaises(codecllm.ArgumentError):
                    codecllm.Encoder(codec).encode_layer(bad)
        for scales in (np.ones(3), np.zeros(70), np.full(70, np.nan), -np.ones(70)):
            for codec in ("tile", "zstd"):
                with self.assertRaises(codecllm.ArgumentError, msg=(codec, scales)):
                    codecllm.Encoder(codec).encode_layer(layer(), scales)
        w = np.ones((8, 128), np.float32)
        w[3, 5] = np.inf
        with self.assertRaises(codecllm.ArgumentError) as raised:
            encoder.encode_weights(w)
        self.assertEqual(raised.exception.position, 3 * 128 + 5)
        for arguments in ({"codec": "lz4"}, {"profile": "best"}, {"codec": "zstd", "chunk_bytes": 0}, {"codec": "zstd", "chunk_bytes": 1 << 30}):
            with self.assertRaises(codecllm.ArgumentError):
                codecllm.Encoder(**arguments)
        with self.assertRaises(codecllm.ArgumentError):
            codecllm.Encoder("zstd").encode_weights(np.ones((8, 128), np.float32))
        with self.assertRaises(codecllm.ArgumentError):
            codecllm.encode(np.ones((8, 8), np.uint16))  # of which type?
        with self.assertRaises(codecllm.Unsupported):  # noise does not shrink losslessly
            codecllm.Encoder().encode_weights(RNG.integers(0, 1 << 15, (8, 64)).astype(np.uint16), mode="lossless", dtype="bfloat16")

    def test_every_prefix(self):
        decoder = codecllm.Decoder(threads=1)
        for codec in ("tile", "zstd"):
            data, _ = codecllm.Encoder(codec, chunk_bytes=512, threads=1).encode_layer(layer(17, 130))
            for n in range(len(data)):
                with self.assertRaises(codecllm.FormatError, msg=(codec, n)):
                    decoder.decode_layer(data[:n])
            np.testing.assert_array_equal(decoder.decode_layer(data + b"more").shape, (17, 130))

    def test_every_damaged_byte(self):
        decoder = codecllm.Decoder(threads=1)
        for codec in ("tile", "zstd"):
            data, _ = codecllm.Encoder(codec, chunk_bytes=512, threads=1).encode_layer(layer(17, 130), np.ones(17))
            for i in range(len(data)):
                damaged = bytearray(data)
                damaged[i] ^= 1 << (i % 8)
                with self.assertRaises(codecllm.FormatError, msg=(codec, i)):
                    decoder.decode_layer(damaged)

    def test_hostile_headers(self):
        """Headers whose checksums fit: an error, or a matrix of the size the header says; never a crash."""
        decoder = codecllm.Decoder(threads=1, verify=False)
        outcomes = {"error": 0, "result": 0}
        for codec in ("tile", "zstd"):
            data, _ = codecllm.Encoder(codec, chunk_bytes=512, threads=1).encode_layer(layer(17, 130), np.ones(17))
            values = [0, 1, 2, 3, 127, 128, 255]
            for at in range(4, 64):
                for value in values:
                    changed = bytearray(data)
                    if changed[at] == value or 32 <= at < 40:
                        continue
                    changed[at] = value
                    try:
                        got = decoder.decode_layer(resealed(changed))
                        header = blob.parse(resealed(changed))
                        self.assertEqual(got.shape, (header.rows, header.cols))
                        outcomes["result"] += 1
                    except codecllm.FormatError:
                        outcomes["error"] += 1
        self.assertGreater(outcomes["error"], 500)

    def test_hostile_payloads(self):
        decoder = codecllm.Decoder(threads=1, verify=False)
        rng = np.random.default_rng(5)
        for codec in ("tile", "zstd"):
            data, _ = codecllm.Encoder(codec, chunk_bytes=700, threads=1).encode_layer(layer(40, 150))
            errors = 0
            for _ in range(300):
                changed = np.frombuffer(data, np.uint8).copy()
                where = rng.integers(64, len(data), rng.integers(1, 6))
                changed[where] = rng.integers(0, 256, where.size)
                try:
                    self.assertEqual(decoder.decode_layer(changed.tobytes()).shape, (40, 150))
                except codecllm.FormatError:
                    errors += 1
            self.assertGreater(errors, 20, codec)

    def test_tables_of_chunks(self):
        data, _ = codecllm.Encoder("zstd", chunk_bytes=512, threads=1).encode_layer(layer(17, 130))
        for at, value, position in ((64, 0, 64), (64, 1 << 31, 64), (68, 0xFFFFFFFF, 68)):
            changed = bytearray(data)
            changed[at : at + 4] = struct.pack("<I", value)
            with self.assertRaises(codecllm.FormatError) as raised:
                blob.parse(resealed(changed))
            self.assertEqual(raised.exception.position, position)
        with self.assertRaises(codecllm.FormatError):  # says it is ours, but its tiles are another matrix's
            tile, _ = codecllm.Encoder(threads=1).encode_layer(layer(17, 130))
            changed = bytearray(tile)
            changed[8:12] = struct.pack("<I", 18)
            codecllm.Decoder().decode_layer(resealed(changed))
        for nothing in (b"", b"CLLB", None, 5, "text"):
            with self.assertRaises(codecllm.FormatError):
                codecllm.Decoder().decode_layer(nothing)


class WithoutGpu(unittest.TestCase):
    def test_fallback_warns_once(self):
        data, _ = codecllm.Encoder().encode_layer(layer())
        _warned.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                t = codecllm.Decoder().decode_layer_to_gpu(data)
        caught = [w for w in caught if w.category is codecllm.FallbackWarning]
        self.assertEqual(len(caught), 1)
        self.assertIn("libcodecllm_cuda.so was not found", str(caught[0].message))
        self.assertEqual((t.device, t.shape, t.dtype, t.__dlpack_device__()), ("cpu", (70, 200), "int8", (1, 0)))
        np.testing.assert_array_equal(np.from_dlpack(t), codecllm.Decoder().decode_layer(data))
        np.testing.assert_array_equal(t.numpy(), codecllm.Decoder().decode_layer(data))
        with self.assertRaises(AttributeError):
            t.__cuda_array_interface__

    def test_strict_raises(self):
        data, _ = codecllm.Encoder().encode_layer(layer())
        with self.assertRaises(codecllm.Unsupported) as raised:
            codecllm.Decoder(strict=True).decode_batch_to_gpu([data])
        self.assertIn("libcodecllm_cuda.so was not found", str(raised.exception))
        with self.assertRaises(codecllm.Unsupported):
            codecllm.Gpu.get(0)
        with self.assertRaises(codecllm.ArgumentError):
            codecllm.Gpu.get("tpu")

    def test_damage_is_no_reason_to_fall_back(self):
        data = bytearray(codecllm.Encoder().encode_layer(layer())[0])
        data[100] ^= 1
        with self.assertRaises(codecllm.FormatError):
            codecllm.Decoder().decode_layer_to_gpu(data)

    def test_device_info(self):
        self.assertEqual(codecllm.device_info("cpu")["id"], "cpu")
        self.assertEqual(codecllm.device_info("auto")["id"], "cpu")
        with self.assertRaises(codecllm.Unsupported):
            codecllm.device_info("cuda")


class Memory(unittest.TestCase):
    def test_ten_thousand_calls(self):
        """5000 times there and back for each codec, errors among them: memory stays what it was."""
        encoders = [codecllm.Encoder("tile", threads=1), codecllm.Encoder("zstd")]
        decoder = codecllm.Decoder(threads=1)
        q = layer(32, 256)
        warnings.simplefilter("ignore")

        def rounds(n):
            for i in range(n):
                for encoder in encoders:
                    data, _ = encoder.encode_layer(q)
                    self.assertEqual(decoder.decode_layer(data)[3, 5], q[3, 5])
                    if i % 16 == 0:
                        decoder.decode_layer_to_gpu(data)
                        try:
                            decoder.decode_layer(data[:-1])
                        except codecllm.FormatError:
                            pass

        rounds(500)
        before = support.resident_bytes()
        rounds(4500)
        grown = support.resident_bytes() - before
        self.assertLess(grown, 2 << 20, f"{grown} bytes more after 9000 more calls")


if __name__ == "__main__":
    os.environ.pop("CODECLLM_NVCOMP", None)
    support.main()
