"""The remote code of the tensor product kinds (modeling_t6.py) in everything that transformers does with a model."""
import tempfile
import unittest

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache

from common import T6_KINDS, VERSION, WORK, load


class T6Model(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.ids = torch.randint(0, 500, (3, 9))

    def models(self):
        return [load(name, "hf") for name in T6_KINDS]

    def generate(self, model, ids=None, **options):
        ids = self.ids if ids is None else ids
        options = dict(do_sample=False, min_new_tokens=20, max_new_tokens=20, pad_token_id=0) | options
        return model.generate(ids, **options)

    def assertClose(self, a, b, bound=1e-5):
        self.assertLess((a - b).abs().max().item(), bound)

    def test_generates_with_and_without_a_cache(self):
        for model in self.models():
            self.assertTrue(torch.equal(self.generate(model), self.generate(model, use_cache=False)))

    def test_beams_are_reordered_in_the_cache(self):
        for model in self.models():
            with_cache = self.generate(model, num_beams=4)
            self.assertTrue(torch.equal(with_cache, self.generate(model, num_beams=4, use_cache=False)))

    def test_candidates_are_cropped_from_the_cache(self):
        for model in self.models():
            looked_up = self.generate(model, self.ids[:1], prompt_lookup_num_tokens=3)
            self.assertTrue(torch.equal(looked_up, self.generate(model, self.ids[:1])))

    @unittest.skipIf(VERSION < (4, 57), "its static cache takes its shape from the config")
    def test_a_cache_of_fixed_size(self):
        for model in self.models():
            self.assertTrue(torch.equal(self.generate(model, cache_implementation="static"), self.generate(model)))

    def test_padding_on_the_left_changes_nothing(self):
        ids = torch.cat([torch.full((3, 4), 7), self.ids], dim=1)
        mask = torch.cat([torch.zeros(3, 4), torch.ones(3, 9)], dim=1).long()
        for model in self.models():
            self.assertClose(model(ids, attention_mask=mask).logits[:, 4:], model(self.ids).logits)
            for use_cache in (True, False):
                made = self.generate(model, ids, attention_mask=mask, use_cache=use_cache)
                self.assertTrue(torch.equal(made[:, 13:], self.generate(model)[:, 9:]))

    def test_the_cache_keeps_factors(self):
        for model in self.models():
            config, cache = model.config, DynamicCache()
            all_at_once = model(self.ids, use_cache=False)
            self.assertIsNone(all_at_once.past_key_values)
            # A prompt in pieces, then single tokens, which attend straight to the factors.
            pieces = [model(piece, past_key_values=cache).logits for piece in self.ids.split([4, 3, 1, 1], dim=1)]
            self.assertClose(torch.cat(pieces, dim=1), all_at_once.logits)
            self.assertEqual(cache.get_seq_length(), 9)
            layers = [(layer.keys, layer.values) for layer in cache.layers] if hasattr(cache, "layers") else \
                list(zip(cache.key_cache, cache.value_cache))
            self.assertEqual(len(layers), config.num_hidden_layers)
            numbers = sum(tensor[:, :, :1].numel() for tensor in layers[0]) // 3
            self.assertEqual(numbers, (config.rank_k + config.rank_v) * (config.num_attention_heads + config.head_dim))
            cache.crop(5 if VERSION < (5, 0) else -4)
            self.assertClose(model(self.ids[:, 5:], past_key_values=cache).logits, all_at_once.logits[:, 5:])

    def test_positions_can_be_given(self):
        for model in self.models():
            positions = torch.arange(9).unsqueeze(0)
            self.assertTrue(torch.equal(model(self.ids, position_ids=positions).logits, model(self.ids).logits))
            # Attention sees differences of positions alone.
            self.assertClose(model(self.ids, position_ids=positions + 40).logits, model(self.ids).logits, 1e-4)

    def test_loss_and_recomputation(self):
        for model in self.models():
            labels = self.ids.clone()
            labels[:, 3] = -100
            logits = model(self.ids).logits
            expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            gradients = []
            model.train()
            for recompute in (False, True):
                if recompute:
                    model.gradient_checkpointing_enable()
                loss = model(self.ids, labels=labels).loss
                self.assertClose(loss, expected)
                loss.backward()
                gradients.append([parameter.grad for parameter in model.parameters()])
                model.zero_grad()
            model.gradient_checkpointing_disable()
            model.eval()
            self.assertTrue(all(torch.equal(a, b) for a, b in zip(*gradients)))
            self.assertTrue(all(gradient.abs().max() > 0 for gradient in gradients[0]))

    def test_what_else_forward_gives(self):
        for model in self.models():
            output = model(self.ids, output_hidden_states=True)
            self.assertEqual(len(output.hidden_states), model.config.num_hidden_layers + 1)
            self.assertClose(model.lm_head(output.hidden_states[-1]), output.logits)
            self.assertClose(model(self.ids, logits_to_keep=2).logits, output.logits[:, -2:])
            self.assertTrue(torch.equal(model(self.ids, return_dict=False)[0], output.logits))
            embedded = model(inputs_embeds=model.get_input_embeddings()(self.ids))
            self.assertTrue(torch.equal(embedded.logits, output.logits))
            self.assertIs(model.lm_head.weight, model.transformer.wte.weight)

    def test_without_the_head(self):
        for name, model in zip(T6_KINDS, self.models()):
            bare = AutoModel.from_pretrained(WORK / name / "hf", trust_remote_code=True,
                                             torch_dtype=torch.float32).eval()
            self.assertClose(model.lm_head(bare(self.ids).last_hidden_state), model(self.ids).logits)

    def test_saved_and_loaded_again(self):
        for model in self.models():
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
                self.assertTrue(torch.equal(again(self.ids).logits, model(self.ids).logits))
                self.assertIs(again.lm_head.weight, again.transformer.wte.weight)
                rounded = AutoModelForCausalLM.from_pretrained(
                    folder, trust_remote_code=True, torch_dtype=torch.bfloat16).eval()
                self.assertEqual(rounded(self.ids).logits.dtype, torch.bfloat16)
                self.assertClose(rounded(self.ids).logits.float(), model(self.ids).logits, 0.5)
                self.generate(rounded)

    def test_made_from_nothing(self):
        """The initial values of t6: output projections are zero, factors have the bounds of the authors' code."""
        config = AutoConfig.from_pretrained(WORK / "tpa" / "hf", trust_remote_code=True)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
        attention, c = model.transformer.h[0].attn, config.hidden_size
        self.assertEqual(attention.c_proj.weight.abs().max().item(), 0)
        for weight, bound in ((attention.c_qkv.W_A_k.weight, (6 / (2 * (7 + c))) ** 0.5),
                              (attention.c_qkv.W_B_q.weight, (6 / (16 * (3 + c))) ** 0.5),
                              (model.lm_head.weight, c**-0.5)):
            self.assertLessEqual(weight.abs().max().item(), bound)
            self.assertGreater(weight.abs().max().item(), 0.97 * bound)


if __name__ == "__main__":
    unittest.main()
