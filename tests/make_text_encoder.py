"""Make text_encoder/ and tokenizer/ of Stable Diffusion, tiny, in the folder that is named.

And expected.pt: what the encoder makes of the tokens that an empty prompt becomes.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel

BEGIN, END, TOKENS = "<|startoftext|>", "<|endoftext|>", 77

folder = Path(sys.argv[1])
(folder / "tokenizer").mkdir()
vocabulary = {"a": 0, "a</w>": 1, BEGIN: 2, END: 3}
options = {
    "tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS,
    "bos_token": BEGIN, "eos_token": END, "pad_token": END, "unk_token": END,
}  # fmt: skip
(folder / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
(folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
(folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(options))

torch.manual_seed(0)
config = CLIPTextConfig(
    vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=2, max_position_embeddings=TOKENS,
    bos_token_id=2, eos_token_id=3, pad_token_id=3,
)  # fmt: skip
encoder = CLIPTextModel(config).eval()
encoder.save_pretrained(folder / "text_encoder")
tokens = torch.tensor([[2] + (TOKENS - 1) * [3]])
torch.save(encoder(tokens).last_hidden_state.detach(), folder / "expected.pt")
