"""What a comparison says of one probe, as the gate says it."""

from eval.change import Change
from eval.gate import amount, indecision, movement, regression
from eval.matrix import Score
from eval.report.words import word


def sentence(change: Change, score: Score, num_tests: int) -> str:
    """One sentence with the numbers behind the verdict.

    Args:
        score: of the later model.
        num_tests: over how many changes Holm corrects.
    """
    kind = word(change)
    if kind == "regressed":
        return regression(change, score, num_tests, of="difference")
    if kind == "undecided":
        return indecision(change, score)
    if kind == "improved":
        return f"{movement(change, score)}, better, also after Holm over {num_tests} differences"
    return f"{movement(change, score)}, held within its margin of {amount(change.margin, score)}"
