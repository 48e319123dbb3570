"""What transformers makes of t6's exports: the same logits, the same text, the same ids."""
import unittest

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Tokenizer

from common import EXPORTS, FACTS, IDS, SOURCE, VERSION, WORK, load, logits_of_t6, note, t6, tokenizer

CLASSES = {"mha": "MistralForCausalLM", "mqa": "MistralForCausalLM", "gqa": "MistralForCausalLM",
           "mla": "DeepseekV3ForCausalLM", "tpa": "T6ForCausalLM", "tpa_kvonly": "T6ForCausalLM"}


def loadable(case):
    """The exports whose class this version of transformers has; `case` says of the others that they are skipped."""
    found = []
    for name, export in EXPORTS:
        with case.subTest(name=name, export=export):
            if name == "mla" and VERSION < (4, 50):
                case.skipTest("DeepSeek-V3 came with transformers 4.50")
            found.append((name, export))
    return found


def text_of(tokens, ids):
    """What t6 prints of them: the tokens' bytes as UTF-8, with a mark for each that is none."""
    visible = [byte for byte in range(256) if 33 <= byte <= 126 or (byte >= 161 and byte != 173)]
    others = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}
    text = bytes(byte_of[c] for token in tokens.convert_ids_to_tokens(ids) for c in token)
    return text.decode(errors="replace")


class Exports(unittest.TestCase):
    def test_classes(self):
        for name, export in loadable(self):
            expected = "LlamaForCausalLM" if export == "llama" else CLASSES[name]
            self.assertEqual(type(load(name, export)).__name__, expected)

    def test_logits(self):
        worst = 0
        for name, export in loadable(self):
            rounded = export.endswith("bf16")
            ours = logits_of_t6(f"{name}/{export}.logits.safetensors" if rounded else f"{name}/logits.safetensors")
            with torch.no_grad():
                theirs = load(name, export)(torch.tensor([IDS])).logits[0]
            self.assertEqual(tuple(theirs.shape), (len(IDS), FACTS["vocabulary"]))
            difference = (ours - theirs).abs().max().item()
            worst = max(worst, difference)
            with self.subTest(name=name, export=export):
                self.assertLess(difference, 1e-5)
                self.assertGreater(ours.abs().max().item(), 1)  # a model that learnt something
        note(f"largest difference of a logit {worst:.1e}")

    def test_greedy_text(self):
        for name, export in loadable(self):
            if export.endswith("bf16"):
                continue
            tokens = tokenizer(name, export)
            prompt = [tokens.eos_token_id] + tokens.encode(FACTS["prompt"])
            model = load(name, export)
            for use_cache in (True, False):
                made = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=FACTS["tokens"],
                                      use_cache=use_cache, pad_token_id=tokens.eos_token_id)[0, 1:]
                self.assertEqual(made.numel(), len(prompt) - 1 + FACTS["tokens"])
                with self.subTest(name=name, export=export, use_cache=use_cache):
                    expected = (WORK / name / "text").read_bytes().decode()
                    self.assertEqual(text_of(tokens, made.tolist()) + "\n", expected)

    def test_saved_again(self):
        """An export that is tuned and saved there is imported by t6, and computes the same."""
        for name, export in loadable(self):
            saved = WORK / name / f"{export}.saved_{VERSION[0]}.{VERSION[1]}"
            # Not of load(): those are for the other tests.
            model = AutoModelForCausalLM.from_pretrained(WORK / name / export, trust_remote_code=True,
                                                         torch_dtype=torch.float32).train()
            before = logits_of_t6(f"{name}/{export}.logits.safetensors")
            for parameter, values in model.named_parameters():  # norms as docs/export.md says
                values.requires_grad = values.ndim > 1 or "_a_layernorm" in parameter
            ids = torch.tensor([IDS])
            model(ids, labels=ids).loss.backward()
            torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
            model.save_pretrained(saved)
            with torch.no_grad():
                theirs = model.eval()(ids).logits[0]
            with self.subTest(name=name, export=export):
                self.assertGreater((theirs - before).abs().max().item(), 1e-3)
                t6("import", saved, "--out", f"{saved}.run", "--force")
                t6("logits", f"{saved}.run", "--ids", ",".join(map(str, IDS)), "--out", f"{saved}.logits",
                   "--device", "cpu")
                self.assertLess((load_file(f"{saved}.logits")["logits"] - theirs).abs().max().item(), 1e-5)

    def test_round_trip(self):
        """Exported, imported, exported: the same bytes in every file."""
        exports = EXPORTS + [(f"{name}_official", "official") for name in FACTS["models"]]
        for name, export in exports:
            first, again = WORK / name / export, WORK / name / f"{export}.again"
            files = sorted(path.name for path in first.iterdir())
            self.assertIn("model.safetensors", files)
            self.assertEqual(files, sorted(path.name for path in again.iterdir()))
            for file in files:
                with self.subTest(name=name, export=export, file=file):
                    self.assertEqual((first / file).read_bytes(), (again / file).read_bytes())


class Tokenizers(unittest.TestCase):
    def test_small(self):
        tokens = tokenizer("tpa")
        self.assertEqual((len(tokens), tokens.eos_token_id, tokens.bos_token_id), (512, 511, 511))
        self.assertEqual(tokens.model_max_length, 128)
        self.assertEqual(tokens.encode("<|endoftext|>"), [511])
        text = (SOURCE / "tests/data/tokenizer/mix.txt").read_bytes().decode()
        self.assertEqual(tokens.decode(tokens.encode(text)), text)

    def test_gpt2(self):
        """GPT-2's ranks through t6 into files, read back: the ids of t6 for a hard text."""
        ids = torch.frombuffer(bytearray((WORK / "gpt2.ids").read_bytes()), dtype=torch.int32).tolist()
        text = (WORK / "gpt2.txt").read_bytes().decode()
        self.assertGreater(len(ids), 1000)
        for kind in (AutoTokenizer, GPT2Tokenizer):  # the second reads vocab.json and merges.txt in transformers 4
            tokens = kind.from_pretrained(WORK / "gpt2" / "hf")
            made = tokens.encode(text)
            self.assertEqual(len(made), len(ids), kind.__name__)
            self.assertTrue(made == ids, kind.__name__)
        note(f"{len(ids)} ids")


if __name__ == "__main__":
    unittest.main()
