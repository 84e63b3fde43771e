"""What people read of an item: the end of the prompt, and what the model chose or wrote."""

from typing import Any

TEXT_CHARACTERS = 200
ANSWER_CHARACTERS = 120


def text_of(task: Any, sample: dict[str, Any]) -> str:
    """The end of what the model was asked, or the beginning of a text that is only scored."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return _one_line(str(sample["target"]))[:TEXT_CHARACTERS]
    text = task.doc_to_text(sample["doc"])
    if not isinstance(text, str):
        text = sample["arguments"][0][0]
    return _one_line(str(text))[-TEXT_CHARACTERS:]


def answer_of(task: Any, sample: dict[str, Any], metric: str) -> str:
    """What the model chose or wrote; nothing for a text that is only scored."""
    arguments, responses = sample["arguments"], sample["filtered_resps"]
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = [str(pair[1]).strip() for pair in arguments if pair[0] == arguments[0][0]]
        if len(choices) < 2:
            return ""
        scale = [len(c) or 1 if metric == "acc_norm" else 1 for c in choices]
        scores = [float(responses[i][0]) / scale[i] for i in range(len(choices))]
        return _one_line(choices[scores.index(max(scores))])[:ANSWER_CHARACTERS]
    if task.OUTPUT_TYPE == "generate_until":
        return _one_line(str(responses[0]))[:ANSWER_CHARACTERS]
    return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
