"""Puts the report into a chain folder: report.html, report.md, report.json, matrix.csv, model_card.md."""

import json
from pathlib import Path

from cpt.ids import atomic_write
from eval.report.content import content
from eval.report.gather import gather
from eval.report.markdown import markdown
from eval.report.model_card import model_card
from eval.report.page import html
from eval.report.story import Story


def write_report(
    chain_folder: Path, stages_folder: Path, compare_with: Path | None = None
) -> Story:
    """Gather a chain and write its report; readers see the old files or the new ones, never a part.

    Raises:
        StoreError, ProbeError: see `gather`.
    """
    story = gather(chain_folder, stages_folder, compare_with)
    tree = json.dumps(content(story), indent=1, default=str, allow_nan=False)
    atomic_write(chain_folder / "matrix.csv", story.matrix.to_csv())
    atomic_write(chain_folder / "report.json", tree + "\n")
    atomic_write(chain_folder / "report.md", markdown(story))
    if card := model_card(story):
        atomic_write(chain_folder / "model_card.md", card)
    else:  # of results that are gone
        (chain_folder / "model_card.md").unlink(missing_ok=True)
    atomic_write(
        chain_folder / "report.html", html(story)
    )  # last: its time tells whether all is new
    return story
