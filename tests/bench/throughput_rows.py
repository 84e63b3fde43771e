"""Models and rows of the throughput benchmark: nothing is fetched, and weights are random."""

import json
from pathlib import Path
from typing import Any


def _shape(hidden: int, layers: int, heads: int, groups: int, wide: int, rows: int) -> Any:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "intermediate_size": wide,
        "vocab_size": rows,
        "tie_word_embeddings": rows < 100_000,
    }


#: Shapes of Llama models, the larger ones last.
SIZES: dict[str, dict[str, Any]] = {
    "toy": _shape(64, 2, 4, 2, 128, 512),
    "smollm2-135m": _shape(576, 30, 9, 3, 1536, 49_152),
    "llama-1b": _shape(2048, 16, 32, 8, 8192, 128_256),
    "llama-3b": _shape(3072, 28, 24, 8, 8192, 128_256),
    "llama-8b": _shape(4096, 32, 32, 8, 14_336, 128_256),
    "llama-13b": _shape(5120, 40, 40, 40, 13_824, 128_256),
}
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>\\n' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def prepare(folder: Path, size: str, dtype: str = "float32") -> None:
    """A model as a finished stage that left rows, and rows for every kind of stage."""
    from cpt.manifest import Manifest

    stage = folder / "stages" / "pretrain-0"
    if (stage / "manifest.json").is_file():
        return
    tokenizer = _tokenizer()
    _model(size, dtype, tokenizer).save_pretrained(stage / "checkpoint")
    tokenizer.save_pretrained(stage / "checkpoint")
    text = (Path(__file__).parents[2] / "cpt" / "hooks" / "base.py").read_text(encoding="ascii")
    pieces = [text[start : start + 240] for start in range(0, len(text) - 240, 12)]
    _write(stage / "exemplars.jsonl", [{"text": piece} for piece in pieces[::4]])
    _write(folder / "pretrain.jsonl", [{"text": piece} for piece in pieces])

    def turns(piece: str, cut: int) -> list[dict[str, str]]:
        asked = {"role": "user", "content": piece[:cut]}
        return [asked, {"role": "assistant", "content": piece[cut : cut + 60 + len(piece) % 37]}]

    chats = [turns(piece, 40 + number % 64) for number, piece in enumerate(pieces)]
    _write(folder / "sft.jsonl", [{"messages": chat} for chat in chats])
    _write(
        folder / "dpo.jsonl",
        [
            {
                "prompt": chat[:1],
                "chosen": chat[1:],
                "rejected": [{**chat[1], "content": chat[1]["content"][::-1]}],
            }
            for chat in chats
        ],
    )
    _write(folder / "grpo.jsonl", [{"prompt": [chat[0]], "answer": "1"} for chat in chats])
    Manifest(id="pretrain-0", kind="pretrain", name="pretrain").write(stage)


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")


def _tokenizer() -> Any:
    """One token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE(
            vocab={word: index for index, word in enumerate([*special, *letters])}, merges=[]
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _model(size: str, dtype: str, tokenizer: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES[size],
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=dtype,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
