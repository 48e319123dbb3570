"""The format of the authors' repository, against the model of reference.py and plain safetensors: what t6 exports
computes the same there, and what is made there computes the same in t6."""
import json
import subprocess
import unittest

import torch
from safetensors.torch import load_file, save_file

from common import FACTS, IDS, PROGRAM, WORK, logits_of_t6, note
from reference import logits

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

    def test_imports(self):
        """Weights that t6 has never seen, from another hand."""
        torch.manual_seed(3)
        for name in FACTS["models"]:
            folder = WORK / f"{name}_official" / "official"
            made, imported = WORK / f"{name}_official" / "made", WORK / f"{name}_official" / "made.run"
            made.mkdir(exist_ok=True)
            config = (folder / "config.json").read_text()
            (made / "config.json").write_text(config)
            weights = {key: tensor + 0.02 * torch.randn_like(tensor)
                       for key, tensor in load_file(folder / "model.safetensors").items()}
            weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
            save_file(weights, made / "model.safetensors", {"format": "pt"})
            if not imported.exists():
                self.t6("import", made, "--out", imported)
            out = imported.with_suffix(".safetensors")
            self.t6("logits", imported, "--ids", ",".join(map(str, IDS)), "--out", out, "--device", "cpu")
            with self.subTest(name=name):
                ours, theirs = load_file(out)["logits"], logits(weights, json.loads(config), IDS)
                self.assertLess((ours - theirs).abs().max().item() / theirs.abs().max().item(), 1e-5)

    def t6(self, *arguments):
        done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr.decode())


if __name__ == "__main__":
    unittest.main()
