"""codecllm.transformers: directories of the command line load, give its text, and are written again. Skipped without transformers."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest
import warnings

import support

support.need("numpy", "torch", "transformers")
FOLDER = support.use_library(fake_gpu=True)
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)  # many are slow where ctest runs other tests beside this one

import transformers  # noqa: E402
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer  # noqa: E402

import codecllm  # noqa: E402
import codecllm.transformers  # noqa: E402
from codecllm.torch import PATHS, CompressedEmbedding, CompressedLinear, compress_model, set_path, weight  # noqa: E402

transformers.utils.logging.disable_progress_bar()
CLI = os.path.join(support.BUILD, "codecllm")
NEW = 32


def cli_text(directory, prompt):
    run = [CLI, "run", directory, "-p", prompt, "-n", str(NEW), "--temp", "0", "--device", "cpu"]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout


class Directories(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.mkdtemp(prefix="cllm-hf-")
        cls.out = os.path.join(cls.work, "out")
        subprocess.run([CLI, "compress", support.TINY, "-o", cls.out, "--bpw", "5"], check=True, capture_output=True)
        with open(os.path.join(support.TINY, "golden.json")) as f:
            cls.prompts = [p["prompt"] for p in json.load(f)["prompts"]][:3]
        weight.host_gpu = codecllm.Gpu.get(0)

    @classmethod
    def tearDownClass(cls):
        weight.host_gpu = None
        shutil.rmtree(cls.work)

    def text(self, model, prompt, directory=None):
        tokenizer = AutoTokenizer.from_pretrained(directory or self.out)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            return tokenizer.decode(model.generate(ids, max_new_tokens=NEW, do_sample=False)[0], skip_special_tokens=True)

    def test_the_command_lines_text(self):
        model = AutoModelForCausalLM.from_pretrained(self.out, dtype=torch.float32)
        self.assertIsInstance(model.model.embed_tokens, CompressedEmbedding)
        self.assertIsInstance(model.lm_head, CompressedLinear)
        self.assertIs(model.lm_head.coded, model.model.embed_tokens.coded)
        for prompt in self.prompts:
            want = cli_text(self.out, prompt).rstrip("\n")
            for path in PATHS:
                set_path(model, path)
                self.assertEqual(self.text(model, prompt), want, path)

    def test_saved_and_loaded(self):
        model = AutoModelForCausalLM.from_pretrained(self.out, dtype=torch.float32)
        saved = os.path.join(self.work, "saved")
        model.save_pretrained(saved)
        AutoTokenizer.from_pretrained(self.out).save_pretrained(saved)
        with open(os.path.join(self.out, "config.json")) as a, open(os.path.join(saved, "config.json")) as b:
            self.assertEqual(json.load(a)["quantization_config"], json.load(b)["quantization_config"])
        again = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
        stores = codecllm.Store(self.out), codecllm.Store(saved)
        self.assertEqual(set(stores[0]), set(stores[1]))
        for name, e in stores[0].items():
            if e.coded:
                self.assertEqual(e.data.tobytes(), stores[1][name].data.tobytes(), name)
        want = self.text(model, self.prompts[0])
        self.assertEqual(self.text(again, self.prompts[0], saved), want)
        self.assertEqual(cli_text(saved, self.prompts[0]).rstrip("\n"), want)

    def test_a_stale_manifest_is_removed(self):
        model = AutoModelForCausalLM.from_pretrained(self.out, dtype=torch.float32)
        plain = AutoModelForCausalLM.from_pretrained(support.TINY, dtype=torch.float32)
        refused = AutoModelForCausalLM.from_pretrained(support.TINY, dtype=torch.float32)
        compress_model(refused, mode="int8", codec="zstd", path="cpu")
        over = os.path.join(self.work, "over")
        manifest = os.path.join(over, "codecllm.json")
        shutil.copytree(self.out, over)
        with self.assertRaises(ValueError):
            refused.save_pretrained(over)
        model.save_pretrained(over, is_main_process=False)
        self.assertTrue(os.path.exists(manifest))  # nothing was written
        for saved in model, plain:
            shutil.copy(os.path.join(self.out, "codecllm.json"), manifest)
            with self.assertWarnsRegex(codecllm.UncheckedWarning, "over/codecllm.json told of .* removed") as caught:
                saved.save_pretrained(over)
            self.assertEqual(sum(issubclass(w.category, codecllm.UncheckedWarning) for w in caught.warnings), 1)
            self.assertFalse(os.path.exists(manifest))
            with warnings.catch_warnings():
                warnings.simplefilter("error", codecllm.UncheckedWarning)
                saved.save_pretrained(over)
        with self.assertWarnsRegex(codecllm.UncheckedWarning, "has no codecllm.json"):
            model.save_pretrained(over)
            AutoModelForCausalLM.from_pretrained(over, dtype=torch.float32)

    def test_compressed_while_loading(self):
        config = codecllm.transformers.CodecllmConfig(bits=5.5, skip=["down_proj"])
        model = AutoModelForCausalLM.from_pretrained(support.TINY, dtype=torch.float32, quantization_config=config)
        self.assertIs(type(model.model.layers[0].mlp.down_proj), torch.nn.Linear)
        self.assertIsInstance(model.lm_head, CompressedLinear)
        saved = os.path.join(self.work, "made")
        model.save_pretrained(saved)
        with open(os.path.join(saved, "config.json")) as f:
            written = json.load(f)["quantization_config"]
        self.assertEqual(written["quant_method"], "codecllm")
        self.assertAlmostEqual(written["bits"], 5.5, delta=0.1)
        again = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
        self.assertEqual(self.text(again, self.prompts[0]), self.text(model, self.prompts[0]))

    def test_compress_model_can_be_saved(self):
        model = AutoModelForCausalLM.from_pretrained(support.TINY, dtype=torch.float32)
        compress_model(model, bpw=5)
        saved = os.path.join(self.work, "compressed")
        model.save_pretrained(saved)
        again = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
        self.assertEqual(self.text(again, self.prompts[1]), self.text(model, self.prompts[1]))
        other = AutoModelForCausalLM.from_pretrained(support.TINY, dtype=torch.float32)
        compress_model(other, mode="int8", codec="zstd", path="cpu")
        with self.assertRaises(ValueError):
            other.save_pretrained(os.path.join(self.work, "never"))

    def test_base_model(self):
        model = AutoModel.from_pretrained(self.out, dtype=torch.float32)
        self.assertIsInstance(model.embed_tokens, CompressedEmbedding)
        with torch.no_grad():
            self.assertEqual(model(torch.tensor([[1, 2, 3]])).last_hidden_state.shape, (1, 3, 256))

    def heads(self, name, change):
        """The tiny model with the tensors that change() makes of its own, as it is and compressed without loss."""
        from safetensors.torch import load_file, save_file

        plain, coded = os.path.join(self.work, name), os.path.join(self.work, name + "-coded")
        shutil.copytree(support.TINY, plain)
        tensors = load_file(os.path.join(support.TINY, "model.safetensors"))
        change(tensors)
        save_file(tensors, os.path.join(plain, "model.safetensors"), metadata={"format": "pt"})
        subprocess.run([CLI, "compress", plain, "-o", coded, "--mode", "lossless"], check=True, capture_output=True)
        return [AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32) for d in (plain, coded)] + [coded]

    def same_logits(self, plain, coded):
        ids = torch.tensor([[5, 99, 1000, 17]])
        with torch.no_grad():
            self.assertTrue(torch.allclose(plain(ids).logits, coded(ids).logits, atol=1e-4))

    EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

    def test_only_the_head_is_stored(self):
        plain, coded, directory = self.heads("only", lambda t: t.update({self.HEAD: t.pop(self.EMBEDDING)}))
        self.same_logits(plain, coded)
        self.assertIs(coded.lm_head.coded, coded.model.embed_tokens.coded)
        saved = os.path.join(self.work, "only-saved")
        coded.save_pretrained(saved)
        self.same_logits(plain, AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32))

    def test_a_tied_model_with_a_head_of_its_own(self):
        with self.assertWarnsRegex(UserWarning, "differ"):
            plain, coded, directory = self.heads("own", lambda t: t.update({self.HEAD: t[self.EMBEDDING].flip(0).contiguous()}))
        self.same_logits(plain, coded)
        self.assertIsNot(coded.lm_head.coded, coded.model.embed_tokens.coded)

    def test_a_head_that_repeats_the_embedding(self):
        plain, coded, directory = self.heads("twice", lambda t: t.update({self.HEAD: t[self.EMBEDDING].clone()}))
        self.same_logits(plain, coded)
        self.assertNotIn(self.HEAD, set(codecllm.Store(directory)))

    def broken(self, change):
        folder = tempfile.mkdtemp(dir=self.work)
        shutil.copytree(self.out, folder, dirs_exist_ok=True)
        change(folder)
        return folder

    def test_broken_directories(self):
        def unchecked(change):
            def both(folder):
                os.remove(os.path.join(folder, "codecllm.json"))
                change(folder)

            return both

        def version(folder):
            with open(os.path.join(folder, "config.json")) as f:
                config = json.load(f)
            config["quantization_config"]["format_version"] = 2
            with open(os.path.join(folder, "config.json"), "w") as f:
                json.dump(config, f)

        def damage(folder):
            with open(os.path.join(folder, "model.safetensors"), "r+b") as f:
                length = int.from_bytes(f.read(8), "little")
                f.seek(8 + length + 4)
                f.write(b"\xff" * 16)

        with self.assertRaisesRegex(codecllm.Unsupported, "format version 2"):
            AutoModelForCausalLM.from_pretrained(self.broken(unchecked(version)))
        with self.assertRaisesRegex(codecllm.FormatError, "config.json"):
            AutoModelForCausalLM.from_pretrained(self.broken(lambda folder: open(os.path.join(folder, "config.json"), "a").write("\n")))
        with self.assertWarns(codecllm.UncheckedWarning), self.assertRaisesRegex(codecllm.FormatError, "weight"):
            AutoModelForCausalLM.from_pretrained(self.broken(unchecked(damage)))
        with self.assertRaisesRegex(codecllm.FormatError, "tensor model.embed_tokens.weight"):
            AutoModelForCausalLM.from_pretrained(self.broken(damage))

    def test_one_bit(self):
        def flip(at):
            def change(folder):
                with open(os.path.join(folder, "model.safetensors"), "r+b") as f:
                    f.seek(at, os.SEEK_END)
                    byte = f.read(1)[0]
                    f.seek(at, os.SEEK_END)
                    f.write(bytes([byte ^ 16]))

            return change

        for at in (-1, -4096, -2000000):
            with self.assertRaisesRegex(codecllm.FormatError, "was changed"):
                AutoModelForCausalLM.from_pretrained(self.broken(flip(at)))
        AutoModelForCausalLM.from_pretrained(self.broken(lambda folder: os.remove(os.path.join(folder, "tokenizer.json"))))


if __name__ == "__main__":
    support.main()
