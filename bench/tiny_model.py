"""Makes a tiny Llama with random weights, from nothing; runs in vLLM's environment.

``python tiny_model.py FOLDER SEED``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


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
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=64,
            max_position_embeddings=8704,
            bos_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
            initializer_range=0.05,
        )
    ).save_pretrained(folder)
    print(json.dumps({"model": str(folder)}))


if __name__ == "__main__":
    main()
