"""The format of the authors' repository, against the model of reference.py in the classes of authors.py: what t6 exports
computes the same there, and what is made and saved there computes the same in t6."""
import json
import os
import re
import unittest

import torch
from safetensors.torch import load_file, save_model

import authors
from common import FACTS, IDS, WORK, logits_of_t6, note, t6
from reference import logits

MODULES = {"mha": "llama-mha", "mqa": "llama-gqa", "gqa": "llama-gqa", "mla": "llama-mla", "tpa": "T6",
           "tpa_kvonly": "T6_kvonly"}


class Official(unittest.TestCase):
    def test_exports(self):
        worst = 0
        for name in FACTS["models"]:
            folder = WORK / f"{name}_official" / "official"
            config = json.loads((folder / "config.json").read_text())
            theirs = logits(load_file(folder / "model.safetensors"), config, IDS)
            ours = logits_of_t6(f"{name}_official/logits.safetensors")
            worst = max(worst, (ours - theirs).abs().max().item())
            with self.subTest(name=name):
                self.assertEqual(config["model_type"], "gpt2")
                self.assertLess((ours - theirs).abs().max().item(), 1e-5)
        note(f"largest difference of a logit {worst:.1e}")

    def test_card(self):
        """The lines of the model card, as they stand there, in the folder of the export."""
        for name in FACTS["models"]:
            folder = WORK / f"{name}_official" / "official"
            (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
            self.assertIn(f'"model.{MODULES[name]}"', code)
            made = {}
            self.addCleanup(os.chdir, os.getcwd())
            os.chdir(folder)
            with self.subTest(name=name), authors.on_the_path():
                exec(compile(code, folder / "README.md", "exec"), made)
                theirs = made["model"](torch.tensor([IDS]), output_all_seq=True)[0][0]
                ours = logits_of_t6(f"{name}_official/logits.safetensors")
                self.assertLess((ours - theirs).abs().max().item(), 1e-5)

    def test_imports(self):
        """Weights that t6 has never seen, saved as docs/export.md says: of a tied pair one name is stored."""
        torch.manual_seed(3)
        for name in FACTS["models"]:
            folder = WORK / f"{name}_official" / "official"
            made, imported = WORK / f"{name}_official" / "made", WORK / f"{name}_official" / "made.run"
            made.mkdir(exist_ok=True)
            keys = json.loads((folder / "config.json").read_text())
            (made / "config.json").write_text(json.dumps(keys))
            module = authors.module(MODULES[name])
            model = module.GPT(module.GPTConfig(**keys))
            save_model(model, made / "model.safetensors")
            self.assertNotIn("transformer.wte.weight", load_file(made / "model.safetensors"))
            t6("import", made, "--out", imported, "--force")
            out = imported.with_suffix(".safetensors")
            t6("logits", imported, "--ids", ",".join(map(str, IDS)), "--out", out, "--device", "cpu")
            with self.subTest(name=name):
                ours, theirs = load_file(out)["logits"], model(torch.tensor([IDS]))[0][0]
                self.assertLess((ours - theirs).abs().max().item() / theirs.abs().max().item(), 1e-5)


if __name__ == "__main__":
    unittest.main()
