import copy
from pathlib import Path
from typing import Any

import pytest

from cpt.checkpoint import load_tokenizer
from cpt.errors import EdgeError
from stages.opening import tokenizer_digest
from stages.same_tokens import SAMPLE, check_tokenizers


def changed(tokenizer: Any, **more: Any) -> Any:
    other = copy.deepcopy(tokenizer)
    for name, value in more.items():
        setattr(other, name, value)
    return other


def problem(own: Any, other: Any) -> str:
    with pytest.raises(EdgeError) as failed:
        check_tokenizers(own, other, "dpo: reference sft-1")
    message = str(failed.value)
    assert message.startswith("dpo: reference sft-1: ")
    assert "model: {add_tokens, chat_template}" in message
    return message


def test_equal_tokenizers_pass(tiny_tokenizer: Any) -> None:
    check_tokenizers(tiny_tokenizer, copy.deepcopy(tiny_tokenizer), "x")


def test_each_difference_is_named(tiny_tokenizer: Any) -> None:
    more = changed(tiny_tokenizer)
    more.add_tokens(["<a>"])
    size = len(tiny_tokenizer)
    assert f"vocabulary: {size + 1} tokens there, {size} here" in problem(tiny_tokenizer, more)
    one, other = changed(tiny_tokenizer), changed(tiny_tokenizer)
    one.add_tokens(["<a>"])
    other.add_tokens(["<b>"])
    assert "the same number of tokens, but other ones" in problem(one, other)
    assert "eos_token: '<|endoftext|>' there, '<|im_end|>' here" in problem(
        tiny_tokenizer, changed(tiny_tokenizer, eos_token="<|endoftext|>")
    )
    assert "bos_token: '<|im_start|>' there, None here" in problem(
        tiny_tokenizer, changed(tiny_tokenizer, bos_token="<|im_start|>")
    )
    assert "chat template" in problem(tiny_tokenizer, changed(tiny_tokenizer, chat_template="x"))


def test_equal_words_that_are_cut_in_another_way_are_a_difference(tiny_tokenizer: Any) -> None:
    from tokenizers import normalizers, pre_tokenizers, processors

    other = changed(tiny_tokenizer)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert "normalizer: not the same" in problem(tiny_tokenizer, other)
    other = changed(tiny_tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert "pre-tokenizer: not the same" in problem(tiny_tokenizer, other)
    other = changed(tiny_tokenizer)
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_end|> $A", special_tokens=[("<|im_end|>", tiny_tokenizer.eos_token_id)]
    )
    assert "the same text gives other tokens" in problem(tiny_tokenizer, other)


def with_merges(tokenizer: Any, *pairs: tuple[str, str]) -> Any:
    """The same words, cut by other merges."""
    from tokenizers import models

    other = changed(tokenizer)
    words = tokenizer.get_vocab() | {"ab": 300, "bc": 301, "abc": 302}
    other.backend_tokenizer.model = models.BPE(vocab=words, merges=list(pairs))
    return other


def test_equal_words_in_another_order_of_merges_are_a_difference(tiny_tokenizer: Any) -> None:
    """The sample text need not have the words in which they differ."""
    pairs = [("a", "b"), ("b", "c"), ("a", "bc")]
    one, other = with_merges(tiny_tokenizer, *pairs), with_merges(tiny_tokenizer, *pairs[::-1])
    assert one.get_vocab() == other.get_vocab()
    assert one(SAMPLE)["input_ids"] == other(SAMPLE)["input_ids"]
    assert "merges: not the same" in problem(one, other)
    assert tokenizer_digest(one) != tokenizer_digest(other)


def test_an_added_token_that_is_special_on_one_side_only_is_a_difference(
    tiny_tokenizer: Any,
) -> None:
    one, other = changed(tiny_tokenizer), changed(tiny_tokenizer)
    one.add_tokens(["<a>"], special_tokens=True)
    other.add_tokens(["<a>"])
    assert "added tokens: not the same" in problem(one, other)
    assert tokenizer_digest(one) != tokenizer_digest(other)
    more = changed(other)
    more.add_special_tokens({"additional_special_tokens": ["<a>"]})
    assert "special tokens: '<a>' is one on one side only" in problem(other, more)


def test_the_digest_is_of_what_a_tokenizer_does(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Saving, loading and using it change nothing; a word, a token or the template do."""
    digest = tokenizer_digest(tiny_tokenizer)
    used = changed(tiny_tokenizer)
    used(["a", "bcd"], padding=True, truncation=True, max_length=2)
    used.save_pretrained(tmp_path)
    assert digest == tokenizer_digest(used) == tokenizer_digest(load_tokenizer(str(tmp_path)))
    more = changed(tiny_tokenizer)
    more.add_tokens(["<a>"])
    others = [more, changed(tiny_tokenizer, chat_template="x")]
    others.append(changed(tiny_tokenizer, eos_token="<|endoftext|>"))
    assert len({digest, *map(tokenizer_digest, others)}) == 4


def test_all_differences_are_told(tiny_tokenizer: Any) -> None:
    other = changed(
        tiny_tokenizer, eos_token="<|endoftext|>", pad_token="<|im_end|>", chat_template="x"
    )
    message = problem(tiny_tokenizer, other)
    for part in ("eos_token", "pad_token", "chat template"):
        assert part in message
