"""Answers and a local judge on a tiny random model: batches, templates, limits and likelihoods."""

import math
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import ProbeError
from eval.beside.answers import Sampling, answer, is_complete, read_answers
from eval.beside.encoding import batches
from eval.beside.judging import question
from eval.beside.kept import Kept
from eval.beside.local_judge import LocalJudge
from eval.beside.prompts import Prompt
from eval.progress import Meter


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(text[:8], ({"role": "user", "content": text},)) for text in texts]


ASKED = prompts("why?", "a longer question, so that there is padding", "how?")


def made(
    model: Any, tokenizer: Any, file: Path, sampling: Sampling, asked: list[Prompt] = ASKED
) -> dict[str, str]:
    kept = Kept(file)
    answer(model, tokenizer, "tiny", asked, sampling, kept, Meter(None))
    assert is_complete(kept, asked)
    return read_answers("tiny", kept, asked).texts


def alone(model: Any, tokenizer: Any, prompt: Prompt, most: int) -> list[int]:
    """Greedy tokens one by one, without cache, padding or batch: the reference."""
    import torch

    text = tokenizer.apply_chat_template(
        list(prompt.messages), tokenize=False, add_generation_prompt=True
    )
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    new: list[int] = []
    while len(new) < most:
        with torch.no_grad():
            token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        new.append(token)
    return new


def test_greedy_answers_are_those_of_each_prompt_alone(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    tiny_model.generation_config.repetition_penalty = 1.7  # the checkpoint's own is set aside
    found = made(tiny_model, tiny_tokenizer, tmp_path / "a", Sampling(6, batch_size=2))
    for prompt in ASKED:
        tokens = alone(tiny_model, tiny_tokenizer, prompt, 6)
        expected = tiny_tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert found[prompt.id] == expected


def test_an_interrupted_run_ends_with_the_same_answers(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sampling = Sampling(6, temperature=1.0, seed=3, batch_size=1)
    whole = made(tiny_model, tiny_tokenizer, tmp_path / "a", sampling)
    lines = (tmp_path / "a").read_text().splitlines(keepends=True)
    assert len(lines) == 3
    (tmp_path / "b").write_text(lines[0] + lines[1][:15])
    assert made(tiny_model, tiny_tokenizer, tmp_path / "b", sampling) == whole
    other = made(tiny_model, tiny_tokenizer, tmp_path / "c", Sampling(6, 1.0, 4, 1))
    assert other != whole


def test_no_template_means_plain_text_and_no_room_is_an_error(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProbeError, match=r"'how\?' has \d+ tokens, and with 600 for the answer"):
        made(tiny_model, tiny_tokenizer, tmp_path / "a", Sampling(600), prompts("how?"))
    monkeypatch.setattr(tiny_tokenizer, "chat_template", None)
    kept = Kept(tmp_path / "b")
    answer(tiny_model, tiny_tokenizer, "tiny", ASKED[:1], Sampling(2), kept, Meter(None))
    found = read_answers("tiny", kept, ASKED[:1])
    assert (found.has_template, found.num_cut) == (False, 1)
    two = Prompt("two", ({"role": "system", "content": "x"}, {"role": "user", "content": "y"}))
    with pytest.raises(ProbeError, match="no chat template, and a prompt has 2 messages"):
        made(tiny_model, tiny_tokenizer, tmp_path / "c", Sampling(2), [two])


def test_the_judge_takes_the_likelier_letter(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    import torch

    questions = {str(n): question(ASKED[n], "one" * n, "another") for n in range(3)}
    kept = Kept(tmp_path / "k")
    tiny_model.config.max_position_embeddings = 4096
    judge = LocalJudge(tiny_model, tiny_tokenizer, "tiny", Meter(None), batch_size=2)
    judge.ask(questions, kept)
    letters = [tiny_tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    for name, text in questions.items():
        told = tiny_tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        ids = tiny_tokenizer(told, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            scores = tiny_model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[letters].tolist()
        row = kept.rows[name]
        assert all(
            math.isclose(a, b, abs_tol=1e-4)
            for a, b in zip(row["log_likelihoods"], scores, strict=True)
        )
        assert row["choice"] == ("A" if scores[0] > scores[1] else "B")
    tiny_model.config.max_position_embeddings = 64
    with pytest.raises(ProbeError, match=r"judge tiny: a question has .* has 64 positions"):
        judge.ask(questions, Kept(tmp_path / "other"))


def test_batches_are_longest_first() -> None:
    assert batches([3, 9, 5, 9], 3) == [[1, 3, 2], [0]]
