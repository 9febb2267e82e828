"""Makes a tiny Llama with random weights and an adapter; runs in vLLM's environment.

``python tiny_model.py FOLDER SEED``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD = 4, 256, 8, 4, 64
RANK = 8


def _adapter(folder: Path, seed: int) -> None:
    """A LoRA adapter that changes all that attention looks at."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    random = torch.Generator().manual_seed(1000 + seed)
    weights = {}
    for layer in range(LAYERS):
        for name, outputs in (("q_proj", HEADS * HEAD), ("v_proj", KV_HEADS * HEAD)):
            module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{module}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=random) * 0.1
            weights[f"{module}.lora_B.weight"] = torch.randn(outputs, RANK, generator=random) * 0.1
    save_file(weights, folder / "adapter_model.safetensors")
    configuration = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(configuration))


def main() -> None:
    """Write the model: weights, configuration, and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "</s>", *alphabet]
    names += [f"<{number}>" for number in range(1024 - len(names))]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    # Weights spread wider than usual, so that what is attended to decides what comes next.
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(names),
            hidden_size=HIDDEN,
            intermediate_size=688,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            head_dim=HEAD,
            max_position_embeddings=8704,
            bos_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
            initializer_range=0.05,
        )
    ).save_pretrained(folder)
    _adapter(folder / "adapter", seed)
    print(json.dumps({"model": str(folder)}))


if __name__ == "__main__":
    main()
