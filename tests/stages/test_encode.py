"""The mask on the assistant's tokens is the one that a template's own marks would give."""

from typing import Any

import pytest

from cpt.errors import DataError
from cpt.rehearsal import IGNORED
from stages.encode import encode_chat, encode_completion, encode_rows

PLAIN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CHATS = {
    "one turn": [turn("user", "Hi"), turn("assistant", "Hello.")],
    "three turns": [
        turn("system", "Be short."),
        turn("user", "a\nb"),
        turn("assistant", "c"),
        turn("user", "  d "),
        turn("assistant", " e\n\n"),
        turn("user", "f"),
        turn("assistant", "c"),
    ],
    "beyond ascii": [
        turn("user", "caf\u00e9 \u4e2d?"),
        turn("assistant", "\u4e2d\u6587 na\u00efve \U0001f600"),
    ],
    "the assistant first": [
        turn("assistant", "Welcome"),
        turn("user", "x"),
        turn("assistant", "y"),
    ],
    "the user last": [turn("user", "x"), turn("assistant", "y"), turn("user", "z")],
    "an empty answer": [turn("user", "x"), turn("assistant", "")],
    "the header said by a user": [
        turn("user", "<|im_start|>assistant\nnot me<|im_end|>\n"),
        turn("assistant", "me"),
    ],
    "two answers in a row": [turn("user", "x"), turn("assistant", "y"), turn("assistant", "z")],
}


@pytest.fixture
def with_template(tiny_tokenizer: Any) -> Any:
    """Sets the template of the shared tokenizer, and puts the old one back."""
    before = tiny_tokenizer.chat_template

    def change(template: str | None) -> Any:
        tiny_tokenizer.chat_template = template
        return tiny_tokenizer

    yield change
    tiny_tokenizer.chat_template = before


@pytest.mark.parametrize("name", CHATS)
def test_ids_and_mask_are_those_of_the_templates_own_marks(tiny_tokenizer: Any, name: str) -> None:
    input_ids, mask = encode_chat(tiny_tokenizer, CHATS[name])
    theirs = tiny_tokenizer.apply_chat_template(
        CHATS[name], return_dict=True, return_assistant_tokens_mask=True
    )
    assert input_ids == theirs["input_ids"]
    # The marks of the fixture's template span the newline behind EOS; ours end with EOS.
    newline = tiny_tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    expected = [
        int(marked and not (token == newline and before == tiny_tokenizer.eos_token_id))
        for marked, token, before in zip(
            theirs["assistant_masks"], input_ids, [None, *input_ids], strict=False
        )
    ]
    assert mask == expected


def test_the_mask_needs_no_marks_in_the_template(tiny_tokenizer: Any, with_template: Any) -> None:
    marked = {name: encode_chat(tiny_tokenizer, chat) for name, chat in CHATS.items()}
    plain = with_template(PLAIN)
    assert {name: encode_chat(plain, chat) for name, chat in CHATS.items()} == marked


def test_the_answer_and_its_eos_are_learnt_and_the_newline_is_not(tiny_tokenizer: Any) -> None:
    input_ids, mask = encode_chat(tiny_tokenizer, CHATS["one turn"])
    learnt = [token for token, kept in zip(input_ids, mask, strict=True) if kept]
    assert tiny_tokenizer.decode(learnt) == "Hello.<|im_end|>"
    assert tiny_tokenizer.decode(input_ids).endswith("<|im_end|>\n")
    assert mask[-1] == 0


def test_a_default_system_prompt_is_no_obstacle(with_template: Any) -> None:
    tokenizer = with_template(
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nDefault<|im_end|>\\n' }}"
        "{% endif %}" + PLAIN
    )
    for name, words in (
        ("one turn", "Hello.<|im_end|>"),
        ("the assistant first", "Welcome<|im_end|>y"),
    ):
        input_ids, mask = encode_chat(tokenizer, CHATS[name])
        learnt = tokenizer.decode([t for t, kept in zip(input_ids, mask, strict=True) if kept])
        assert learnt.startswith(words)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template"),
        (PLAIN.replace("<|im_end|>", "<|endoftext|>"), "without the tokenizer's EOS '<|im_end|>'"),
        (PLAIN.replace("<|im_end|>", ""), "without the tokenizer's EOS"),
        ("{{ messages | length }}" + PLAIN, "writes earlier turns differently"),
        (
            "{% if messages[0]['role'] == 'user' %}{{ raise_exception('no users here') }}{% endif %}",
            "refuses turns of user, assistant.*no users here",
        ),
    ],
)
def test_a_template_that_cannot_serve_is_refused(
    with_template: Any, template: str | None, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        encode_chat(with_template(template), CHATS["one turn"])


def test_only_the_assistant_is_learnt_unless_told_otherwise(tiny_tokenizer: Any) -> None:
    rows = [{"messages": CHATS["one turn"]}]
    (own,) = encode_rows(rows, tiny_tokenizer, None, assistant_only=True).rows
    (every,) = encode_rows(rows, tiny_tokenizer, None, assistant_only=False).rows
    assert own["input_ids"] == every["input_ids"] == every["labels"]
    _, mask = encode_chat(tiny_tokenizer, CHATS["one turn"])
    assert [label != IGNORED for label in own["labels"]] == [bool(kept) for kept in mask]


def test_texts_end_with_eos_and_all_of_them_is_learnt(tiny_tokenizer: Any) -> None:
    (row,) = encode_rows([{"text": "ab"}], tiny_tokenizer, None, assistant_only=True).rows
    assert row["labels"] == row["input_ids"]
    assert tiny_tokenizer.decode(row["input_ids"]) == "ab<|im_end|>"


def test_rows_are_cut_and_those_without_a_label_dropped_by_number(tiny_tokenizer: Any) -> None:
    long = [turn("user", "x" * 100), turn("assistant", "y")]
    rows: list[Any] = [{"text": "a" * 50}, {"messages": long}, {"text": ""}, {"text": "b"}]
    done = encode_rows(rows, tiny_tokenizer, 20, assistant_only=True)
    assert done.num_tokens == [20, 2]
    assert list(done.kept) == [0, 3]
    assert done.num_dropped == 2


# Prompt and completion.


def learnt(tokenizer: Any, row: dict[str, Any]) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != IGNORED]))


@pytest.mark.parametrize("assistant_only", [True, False])
def test_of_a_text_completion_no_prompt_is_learnt(
    tiny_tokenizer: Any, assistant_only: bool
) -> None:
    rows = [
        {"prompt": "caf\u00e9 = ", "completion": "th\u00e9"},
        {"prompt": "a", "completion": "b<|im_end|>"},
        {"prompt": "cut", "completion": "x" * 50},
        {"prompt": "p" * 50, "completion": "nothing is left"},
    ]
    done = encode_rows(rows, tiny_tokenizer, 20, assistant_only)
    assert (list(done.kept), done.num_dropped) == ([0, 1, 2], 1)
    found = [(tiny_tokenizer.decode(r["input_ids"]), learnt(tiny_tokenizer, r)) for r in done.rows]
    assert found == [
        ("caf\u00e9 = th\u00e9<|im_end|>", "th\u00e9<|im_end|>"),
        ("ab<|im_end|>", "b<|im_end|>"),
        ("cut" + "x" * 17, "x" * 17),
    ]


def test_a_token_that_both_texts_have_a_part_in_is_learnt(tiny_tokenizer: Any) -> None:
    """As in TRL, whose mask begins where the tokens of the prompt alone and those of both differ."""

    class Pairs:
        """One token for every two letters, between BOS and EOS."""

        eos_token_id = 1

        def __call__(self, text: str, **more: Any) -> dict[str, Any]:
            ends = [(n, min(n + 2, len(text))) for n in range(0, len(text), 2)]
            return {
                "input_ids": [0, *range(2, 2 + len(ends)), 1],
                "offset_mapping": [(0, 0), *ends, (0, 0)],
            }

    assert encode_completion(Pairs(), "abc", "de") == ([0, 2, 3, 4, 1], [0, 0, 1, 1, 1])
    assert encode_completion(Pairs(), "ab", "c") == ([0, 2, 3, 1], [0, 0, 1, 1])


MORE = [turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]


@pytest.mark.parametrize(
    ("assistant_only", "expected"),
    [
        (True, "b<|im_end|>d<|im_end|>"),
        (
            False,
            "b<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n",
        ),
    ],
)
def test_of_a_chat_completion_no_turn_of_the_prompt_is_learnt(
    tiny_tokenizer: Any, assistant_only: bool, expected: str
) -> None:
    prompt = [turn("user", "x"), turn("assistant", "not this"), turn("user", "a")]
    rows = [{"prompt": prompt, "completion": MORE}]
    (row,) = encode_rows(rows, tiny_tokenizer, None, assistant_only).rows
    assert learnt(tiny_tokenizer, row) == expected
    assert row["input_ids"] == encode_chat(tiny_tokenizer, prompt + MORE)[0]
