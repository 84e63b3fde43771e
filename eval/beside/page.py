"""The comparison as one HTML file: no scripts, nothing from outside, every text escaped."""

from eval.beside.heat_table import differences, heat_table
from eval.beside.judging import summary
from eval.beside.story import Generations, Story, Verdicts, tally
from eval.report.markup import Markup, breakable, join, tag
from eval.report.style import STYLE
from eval.report.text import clean

_STYLE = """
h2 { overflow-wrap: anywhere; } .summary span { display: block; }
.beside th[scope=row] { position: sticky; left: 0; z-index: 1; background: var(--paper); }
.beside .change { display: block; font-size: 12px;
  margin-top: 3px; white-space: nowrap; }
.beside thead td { width: 170px; } .beside thead th:last-child { width: 76px; }
.answers { margin-top: 18px; padding-top: 14px; border-top: 1px solid var(--line); }
@media (max-width: 900px) { .beside thead td { width: 104px; } }
.answers .question { font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0
  10px; }
.answers .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap:
  12px; }
.answers .answer { background: var(--card); border-radius: 8px; padding: 10px 14px; font-size:
  13.5px; white-space: pre-wrap; overflow-wrap: anywhere; }
.answers .who { display: block; margin-bottom: 4px; font-size: 12px; }
"""


def html(story: Story) -> str:
    """The whole page; the same story gives the same bytes."""
    title = " and ".join(story.labels)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} side by side"),
        tag("style", Markup(STYLE + _STYLE)),
    )
    parts = [_header(story)]
    if story.table:
        asked = story.table.template_note
        templates = tag("p", asked, class_="lead") if asked else Markup()
        parts += [heat_table(story, story.table), templates, *differences(story.table)]
    if story.verdicts:
        parts.append(_verdicts(story.verdicts))
    if story.generations:
        parts.append(_generations(story.generations))
    page = tag("html", head, tag("body", tag("main", *parts)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _header(story: Story) -> Markup:
    lines = tally(story.table) if story.table else []
    places = [
        tag("span", tag("b", label), " ", tag("code", clean(place)))
        for label, place in story.models
    ]
    return tag(
        "header",
        tag("h1", "Side by side: ", join([breakable(label) for label in story.labels], ", ")),
        tag("p", *(tag("span", f"{line}.") for line in lines), class_="summary"),
        tag("p", *places, class_="meta"),
    )


def _verdicts(verdicts: Verdicts) -> Markup:
    lines = tag("ul", *(tag("li", f"{summary(rate)}.") for rate in verdicts.rates))
    asked = tag("details", tag("summary", "What it was asked"), tag("pre", clean(verdicts.prompt)))
    return tag("section", tag("h2", f"Judged by {verdicts.judge}"), lines, asked)


def _generations(generations: Generations) -> Markup:
    title = tag("h2", f"Answers to {len(generations.prompts)} prompts")
    lead = tag("p", f"{generations.sampling}.", class_="lead")
    lengths = ", ".join(f"{a.model} {a.mean_length:.0f}" for a in generations.answers)
    lines = [f"Characters an answer: {lengths}.", *(f"{note}." for note in generations.notes)]
    notes = tag("ul", *(tag("li", line) for line in lines), class_="hint")
    told = [
        tag(
            "div",
            tag("p", prompt.text, class_="question"),
            tag(
                "div",
                *(
                    tag(
                        "div",
                        tag("span", answers.model, class_="who"),
                        answers.texts[prompt.id] or tag("i", "nothing"),
                        class_="answer",
                    )
                    for answers in generations.answers
                ),
                class_="grid",
            ),
            class_="answers",
        )
        for prompt in generations.prompts
    ]
    return tag("section", title, lead, notes, *told)
