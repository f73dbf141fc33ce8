"""codecllm.torch on torch's CPU: all six paths, through a stand-in for a GPU whose memory is the host's. Skipped without torch."""

import copy
import gc
import io
import pickle
import re
import unittest
import unittest.mock
import warnings

import support

support.need("numpy", "torch")
FOLDER = support.use_library(fake_gpu=True)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import codecllm  # noqa: E402
from codecllm.codec import _warned  # noqa: E402
from codecllm.torch import (  # noqa: E402
    PATHS, ZSTD_PATHS, CodedWeight, CompressedEmbedding, CompressedLinear, check, compress_model, memory, paths, set_path, weight,
)

FAKE = support.fake_state(FOLDER)
torch.manual_seed(3)
torch.set_num_threads(1)  # many are slow where ctest runs other tests beside this one


class Attention(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden // 2), nn.Linear(hidden, hidden // 2)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x):
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.o_proj(q * torch.sigmoid(torch.cat([k, v], -1)))


class Layer(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.attention = Attention(hidden)
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(*s, bias=False) for s in ((hidden, 96), (hidden, 96), (96, hidden)))

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.down_proj(torch.sigmoid(self.gate_proj(x)) * self.up_proj(x))


class Network(nn.Module):
    def __init__(self, layers=3, hidden=64, vocab=100, tied=False):
        super().__init__()
        self.embed = nn.Embedding(vocab, hidden)
        self.layers = nn.ModuleList(Layer(hidden) for _ in range(layers))
        self.head = nn.Linear(hidden, vocab, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def plain(model, reference):
    """The same network with nn.Linear of the dequantized weights."""
    dtype = reference.head.weight.dtype
    with torch.no_grad():
        for name, m in model.named_modules():
            if isinstance(m, (CompressedLinear, CompressedEmbedding)):
                reference.get_submodule(name).weight.copy_(m.dequantize(dtype))
    return reference


class Base(unittest.TestCase):
    def setUp(self):
        weight.host_gpu = codecllm.Gpu.get(0)

    def tearDown(self):
        weight.host_gpu = None
        paths.Turns.forget()
        gc.collect()
        self.assertEqual((FAKE.tensors, FAKE.blocks), (0, 0))


class Paths(Base):
    def check_paths(self, dtype, which, tolerance, **arguments):
        ids = torch.randint(0, 100, (1, 5))
        reference = Network().to(dtype).eval()
        model = copy.deepcopy(reference)
        report = compress_model(model, **arguments)
        self.assertEqual(len(report.compressed), 3 * 7 + 1 + bool(arguments.get("embeddings")))
        plain(model, reference)
        with torch.no_grad():
            for shape in (ids, ids[:, :1], ids.repeat(3, 2)):
                want = reference(shape)
                for path in which:
                    set_path(model, path)
                    for _ in range(2):  # the second time slabs and siblings hold what the first one left
                        got = model(shape)
                        self.assertEqual((got.shape, got.dtype), (want.shape, want.dtype))
                        if path == "fused" and shape.numel() <= 8:
                            self.assertLess((got.float() - want.float()).abs().max().item(), tolerance * want.float().abs().max().item(), path)
                        else:
                            self.assertTrue(torch.equal(got, want), (path, dtype, shape.shape))
        check(model)

    def test_rd(self):
        for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2), (torch.float32, 1e-5)):
            self.check_paths(dtype, PATHS, tolerance, mode="rd", bpw=5)

    def test_int8_and_embeddings(self):
        self.check_paths(torch.bfloat16, PATHS, 3e-2, mode="int8", embeddings=True)

    def test_lossless(self):
        for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2)):
            self.check_paths(dtype, PATHS, tolerance, mode="lossless")

    def test_zstd(self):
        self.check_paths(torch.float16, ZSTD_PATHS, 0, mode="int8", codec="zstd", path="gpu")
        with self.assertRaises(codecllm.ArgumentError):
            compress_model(Network(), mode="int8", codec="zstd", path="fused")
        with self.assertRaises(codecllm.ArgumentError):
            CompressedLinear.from_linear(nn.Linear(64, 64), codec="zstd", path="cpu", mode="rd")

    def test_what_each_path_calls(self):
        model = Network().half().eval()
        compress_model(model, bpw=5)
        ids = torch.randint(0, 100, (1, 1))

        def calls(path, shape=ids):
            set_path(model, path)
            with torch.no_grad():
                model(shape)  # warm: overlap has decoded the first block of the next pass by now
                before = (FAKE.decodes, FAKE.decoded, FAKE.multiplies, FAKE.multiplied)
                model(shape)
            return tuple(after - b for after, b in zip((FAKE.decodes, FAKE.decoded, FAKE.multiplies, FAKE.multiplied), before))

        self.assertEqual(calls("cpu"), (0, 0, 0, 0))
        trims = FAKE.trims
        self.assertEqual(calls("gpu"), (22, 22, 0, 0))
        self.assertEqual(calls("gpu-dequant"), (22, 22, 0, 0))
        self.assertEqual(calls("gpu-batched"), (4, 22, 0, 0))  # three layers and the head
        self.assertEqual(calls("gpu-overlap"), (4, 22, 0, 0))
        self.assertGreater(FAKE.trims, trims)  # memory of the paths before goes back
        self.assertEqual(calls("fused"), (0, 0, 3 * 4 + 1, 22))  # q, k, v together; gate and up together
        self.assertEqual(calls("fused", ids.repeat(1, 9)), (22, 22, 0, 0))  # a prompt: decoded once, torch multiplies

    def test_blocks_out_of_order(self):
        """Overlap guesses that layers follow each other; where they do not, results are the same."""
        model = Network().eval()
        compress_model(model, bpw=5, path="cpu")
        x = torch.randn(2, 64)
        orders = [(0, 1, 2), (2, 0, 1), (1, 1, 1), (0, 2, 0, 2)]
        with torch.no_grad():
            want = []
            for order in orders:
                y = x
                for i in order:
                    y = model.layers[i](y)
                want.append(y)
            for path in ("gpu-batched", "gpu-overlap"):
                set_path(model, path)
                for order, w in zip(orders, want):
                    y = x
                    for i in order:
                        y = model.layers[i](y)
                    self.assertTrue(torch.equal(y, w), (path, order))
                only = model.layers[1].up_proj(x)  # one matrix of a block, twice
                self.assertTrue(torch.equal(only, model.layers[1].up_proj(x)))

    def test_siblings_take_only_what_is_theirs(self):
        model = Network().half().eval()
        compress_model(model, bpw=5)
        a = model.layers[0].attention
        x = torch.randn(1, 64).half()
        with torch.no_grad():
            alone = [m._alone.run(0, x) for m in (a.q_proj, a.k_proj, a.v_proj)]
            self.assertTrue(all(torch.equal(m(x), w) for m, w in zip((a.q_proj, a.k_proj, a.v_proj), alone)))
            self.assertTrue(torch.equal(a.v_proj(x), alone[2]))  # without q before it
            a.q_proj(x)
            other = x.clone()
            self.assertTrue(torch.equal(a.k_proj(other), alone[1]))  # equal, but not the same tensor
            a.q_proj(x)
            x.add_(1)  # the same tensor, changed
            changed = a.k_proj(x)
            self.assertTrue(torch.equal(changed, a.k_proj._alone.run(0, x)))
            self.assertFalse(torch.equal(changed, alone[1]))
            first = a.q_proj(x)
            k = a.k_proj(x)
            k.zero_()  # what was handed out belongs to the caller
            self.assertFalse(bool((a.k_proj(x) == 0).all()))
            self.assertTrue(torch.equal(a.q_proj(x), first))
        with torch.inference_mode():
            y = torch.randn(1, 64).half()
            q = a.q_proj(y)
            y.mul_(2)
            self.assertFalse(torch.equal(a.q_proj(y), q))

    def test_gradients_reach_x(self):
        linear = CompressedLinear.from_linear(nn.Linear(64, 32), bpw=6)
        x = torch.randn(2, 64, requires_grad=True)
        linear(x).sum().backward()
        torch.testing.assert_close(x.grad, linear.dequantize().sum(0).expand(2, 64))

    def test_shapes_and_types(self):
        linear = CompressedLinear.from_linear(nn.Linear(64, 32), bpw=6)
        self.assertEqual(linear(torch.randn(2, 1, 3, 64)).shape, (2, 1, 3, 32))
        self.assertEqual(linear(torch.randn(64)).shape, (32,))
        self.assertEqual(linear(torch.randn(0, 64)).shape, (0, 32))
        torch.testing.assert_close(linear(torch.randn(64, 3).t()[:, :]).shape, (3, 32))
        for bad in (torch.randn(2, 63), torch.randn(2, 64).double(), torch.ones(2, 64, dtype=torch.int32)):
            with self.assertRaises(codecllm.ArgumentError):
                linear(bad)
        with self.assertRaises(codecllm.ArgumentError):
            linear(torch.randn(2, 64).half())  # the bias is float32
        with self.assertRaises(codecllm.ArgumentError):
            CompressedLinear(linear.coded, torch.zeros(5))
        with self.assertRaises(codecllm.ArgumentError):
            linear.set_path("warp")
        embedding = CompressedEmbedding.from_embedding(nn.Embedding(50, 64), bpw=6)
        self.assertEqual(embedding(torch.tensor([[1, 2], [3, 49]])).shape, (2, 2, 64))
        self.assertEqual(embedding.half()(torch.tensor([4])).dtype, torch.float16)
        embedding.set_path("cpu")
        with self.assertRaises(IndexError):
            embedding(torch.tensor([50]))


class Models(Base):
    def test_report(self):
        model = Network(tied=True)
        model.layers[1].up_proj.weight.data[3, 4] = float("nan")
        report = compress_model(model, bpw=5, skip=[r"layers\.0\.attention", "down_proj$"])
        reasons = {i.name: i.reason for i in report.kept}
        self.assertEqual(len(report.compressed), 22 - 4 - 3 - 1 - 1)
        self.assertEqual(reasons["layers.0.attention.q_proj"], r"skipped by 'layers\.0\.attention'")
        self.assertEqual(reasons["layers.0.down_proj"], "skipped by 'down_proj$'")
        self.assertIn("not a finite number", reasons["layers.1.up_proj"])
        self.assertIn("shares its weight with embed", reasons["head"])
        self.assertIs(type(model.head), nn.Linear)
        self.assertIs(type(model.layers[0].attention.q_proj), nn.Linear)
        self.assertAlmostEqual(report.bits_per_weight, 5, delta=0.1)
        text = str(report)
        self.assertEqual(len(text.splitlines()), 22 + 1)
        self.assertIn("13 compressed, 9 kept", text)
        self.assertIn("q_proj", repr(model))

    def test_rows_together(self):
        """Each matrix is encoded for the rows of all that are multiplied in one launch with it."""
        seen = {}
        encode = CodedWeight.encode

        def spy(weight, **arguments):
            seen[id(weight)] = arguments["rows_together"]
            return encode(weight, **arguments)

        network = Network(layers=1)
        layer = network.layers[0]
        wanted = {m.weight: rows for m, rows in (
            (layer.attention.q_proj, 128), (layer.attention.k_proj, 128), (layer.attention.v_proj, 128), (layer.attention.o_proj, 0),
            (layer.gate_proj, 192), (layer.up_proj, 192), (layer.down_proj, 0), (network.head, 0),
        )}
        with unittest.mock.patch.object(CodedWeight, "encode", spy):
            compress_model(network)
        self.assertEqual(seen, {id(w): rows for w, rows in wanted.items()})
        wide = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
        tiles = [codecllm.Tensor(codecllm.encode(wide, mode="int8", profile="fast", rows_together=rows)).info.tile_cols for rows in (0, 23000)]
        self.assertEqual(tiles, [128, 256])

    def test_tied(self):
        model = Network(tied=True).eval()
        report = compress_model(model, bpw=5, embeddings=True)
        self.assertEqual(len(report.kept), 0)
        self.assertIs(model.head.coded, model.embed.coded)
        state = model.state_dict()
        self.assertIn("embed.weight_cllm", state)
        self.assertNotIn("head.weight_cllm", state)
        other = Network(tied=True).eval()
        compress_model(other, bpw=4, embeddings=True)
        ids = torch.randint(0, 100, (1, 3))
        with torch.no_grad():
            before = other(ids)
            self.assertFalse(torch.equal(before, model(ids)))
            self.assertEqual(other.load_state_dict(state).missing_keys, [])
            self.assertTrue(torch.equal(other(ids), model(ids)))
            set_path(other, "gpu-overlap")
            other(ids)
            self.assertEqual(len(other.load_state_dict(state).unexpected_keys), 0)
            set_path(model, "cpu")
            self.assertTrue(torch.equal(other(ids), model(ids)))

    def test_state_that_does_not_fit(self):
        model = Network(1).eval()
        compress_model(model, bpw=5)
        state = model.state_dict()
        name = "layers.0.up_proj.weight_cllm"
        self.assertEqual(state[name].dtype, torch.uint8)
        self.assertEqual(state[name].numel() % 64, 0)
        for change, message in (
            (lambda s: s.update({name: s[name][:100]}), "up_proj"),
            (lambda s: s.update({name: state["layers.0.down_proj.weight_cllm"]}), "holds 64 x 96, not 96 x 64"),
            (lambda s: s.pop(name), "Missing key"),
        ):
            changed = dict(state)
            change(changed)
            with self.assertRaisesRegex(RuntimeError, re.escape(message)):
                model.load_state_dict(changed)

    def test_copies(self):
        model = Network().half().eval()
        compress_model(model, bpw=5, embeddings=True)
        ids = torch.randint(0, 100, (1, 4))
        with torch.no_grad():
            want = model(ids)
            held = memory(model)["tensors"]
            again = copy.deepcopy(model)
            self.assertTrue(torch.equal(again(ids), want))
            self.assertEqual(memory(model)["tensors"], 2 * held)
            buffer = io.BytesIO()
            pickle.dump(model, buffer)
            del model, again
            gc.collect()
            self.assertEqual(FAKE.tensors, 0)
            again = pickle.loads(buffer.getvalue())
            for path in PATHS:
                set_path(again, path)
                self.assertLess((again(ids) - want).abs().max().item(), 1e-2)
            one = pickle.dumps(again.layers[0].up_proj)
            self.assertLess(len(one), again.layers[0].up_proj.coded.nbytes + 4000)  # itself, and not its layer

    def test_fallback(self):
        weight.host_gpu = None  # tensors on the CPU have no GPU
        model = Network().eval()
        compress_model(model, bpw=5)
        _warned.clear()
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            model(torch.tensor([[1]]))
            model(torch.tensor([[1]]))
        self.assertEqual([w.category for w in caught], [codecllm.FallbackWarning])
        self.assertIn("its input is on cpu", str(caught[0].message))
        strict = Network().eval()
        compress_model(strict, bpw=5, strict=True)
        with self.assertRaises(codecllm.Unsupported):
            strict(torch.tensor([[1]]))

    def test_corruption_is_told(self):
        good = CodedWeight.encode(torch.randn(64, 256), mode="rd", bpw=5, codec_name="tile", profile="fast", threads=1)
        data = good.data.copy()
        data[len(data) // 4 : len(data) // 4 * 3] = 0xFF
        linear = CompressedLinear(CodedWeight(data))
        with torch.no_grad():
            linear(torch.randn(1, 256))
        with self.assertRaises(codecllm.FormatError):
            check(linear)
        check(linear)
        linear.set_path("cpu")
        with self.assertRaises(codecllm.FormatError):
            linear(torch.randn(1, 256))

    def test_zero_copy(self):
        q = np.clip(np.round(np.random.default_rng(1).normal(size=(64, 128)) * 20), -128, 127).astype(np.int8)
        t = codecllm.Decoder(strict=True).decode_layer_to_gpu(codecllm.Encoder().encode_layer(q)[0])
        for view in (torch.from_dlpack(t), t.torch(), torch.utils.dlpack.from_dlpack(t.__dlpack__())):
            self.assertEqual(view.data_ptr(), t.data_ptr)
            self.assertTrue(np.array_equal(view.numpy(), q))
        del t
        self.assertEqual(FAKE.blocks, 1)
        del view


if __name__ == "__main__":
    support.main()
