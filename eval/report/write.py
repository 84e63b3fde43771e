"""Puts report.md, report.html and matrix.csv into a chain folder."""

from pathlib import Path

from cpt.ids import atomic_write
from eval.report.markdown import markdown
from eval.report.page import html
from eval.report.story import Story, gather


def write_report(
    chain_folder: Path, stages_folder: Path, compare_with: Path | None = None
) -> Story:
    """Gather a chain and write its report; readers see the old files or the new ones, never a part.

    Raises:
        StoreError, ProbeError: see `gather`.
    """
    story = gather(chain_folder, stages_folder, compare_with)
    atomic_write(chain_folder / "matrix.csv", story.matrix.to_csv())
    atomic_write(chain_folder / "report.md", markdown(story))
    atomic_write(chain_folder / "report.html", html(story))
    return story
