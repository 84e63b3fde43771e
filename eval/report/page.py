"""The report as one HTML file: no scripts, nothing from outside, light and dark, fit to print."""

import yaml

from eval.noise import sentence
from eval.report import forest, kept, kl, ledger
from eval.report.examples import examples
from eval.report.facts import packages
from eval.report.heat_map import heat_map
from eval.report.lineage import lineage
from eval.report.markup import Markup, join, tag
from eval.report.sections import pill, stage_section
from eval.report.story import Story
from eval.report.style import STYLE
from eval.report.text import clean
from eval.report.versus import versus
from eval.report.words import sentences
from eval.template import note


def html(story: Story) -> str:
    """The whole page; the same story gives the same bytes."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{story.name}: what the chain kept and what it lost"),
        tag("style", Markup(STYLE)),
    )
    parts = [_header(story), tag("section", lineage(story))]
    if story.probes:
        noise = tag("p", sentence(story.noise), class_="lead") if story.noise else Markup()
        asked = note(story.matrix.rows)
        templates = tag("p", asked, class_="lead") if asked else Markup()
        heading = tag("h2", "Stages \u00d7 probes")
        parts.append(tag("section", heading, heat_map(story), noise, templates))
    if story.comparison:
        parts.append(
            tag("section", tag("h2", f"Against {story.comparison.other.name}"), versus(story))
        )
    parts += [kept.section(story), _examples(story), _stages(story), kl.section(story)]
    parts += [_cost(story), _recipe(story), _packages(story)]
    page = tag("html", head, tag("body", tag("main", *parts)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _header(story: Story) -> Markup:
    last = story.last_probed
    badge = pill(last.verdict.action) if last and last.verdict else Markup()
    baseline = (
        tag("span", f"baseline {story.baseline}", class_="pill quiet") if story.baseline else ""
    )
    finished = [s.manifest["finished"] for s in story.stages if s.manifest.get("finished")]
    facts = [tag("code", story.command), tag("span", f"suite {story.suite}-{story.suite_hash}")]
    facts += [tag("span", f"seed {story.seed}")] if story.seed is not None else []
    facts += [tag("span", f"finished {max(finished)}")] if finished else []
    return tag(
        "header",
        tag("h1", story.name, " ", badge, baseline),
        tag("p", *_spaced(sentences(story)), class_="summary"),
        tag("p", *facts, class_="meta"),
    )


def _spaced(texts: list[str]) -> list[Markup]:
    return [tag("span", text, " ") for text in texts]


def _examples(story: Story) -> Markup:
    last = story.last_probed
    if last is None or last.row is None or not last.from_base:
        return Markup()
    start = story.matrix.rows[0]
    found = examples(
        story.flips, start, last.row, f"From {start.stage} to {last.name}", is_open=True
    )
    return tag("section", tag("h2", "Examples"), found) if found else Markup()


def _stages(story: Story) -> Markup:
    changes = [c for stage in story.stages for c in (*stage.from_base, *stage.from_predecessor)]
    scale = forest.axis(changes)
    told = [
        stage_section(story, stage, scale)
        for stage in story.stages
        if stage.kind != "base" and stage.status != "to do"
    ]
    if not told:
        return Markup()
    lead = tag(
        "p",
        "Bars are 95 % intervals of the paired difference, in margins of the probe; the thin bar "
        "is the change from the stage before. Left of the dotted line a probe is worse than its "
        "margin allows. Each probe says how far below the margin a fall must be for its items to "
        "detect it four times in five, after the correction for all probes and stages.",
        class_="lead",
    )
    return tag("section", tag("h2", "Stage by stage"), lead if changes else "", *told)


def _cost(story: Story) -> Markup:
    entries = story.ledger
    if not entries:
        return Markup()
    heads = ledger.heads(entries)
    rows = [
        tag(
            "tr",
            tag("th", one.stage, scope="row"),
            *(tag("td", cell) for cell in ledger.cells(one, heads)),
        )
        for one in entries
    ]
    top = tag("tr", tag("td"), *(tag("th", head, scope="col") for head in heads))
    table = tag("table", tag("thead", top), tag("tbody", *rows), class_="plain")
    total = tag("p", ledger.total(entries), class_="lead")
    return tag("section", tag("h2", "What it cost"), tag("div", table, class_="scroll"), total)


def _recipe(story: Story) -> Markup:
    if not story.recipe:
        return Markup()
    told = clean(yaml.safe_dump(story.recipe, sort_keys=False, allow_unicode=True, width=100))
    lines = tag("pre", told)
    return tag(
        "section",
        tag("h2", "Recipe"),
        tag("details", tag("summary", "As resolved, overrides applied"), lines),
    )


def _packages(story: Story) -> Markup:
    versions = packages(story)
    if not versions:
        return Markup()
    told = [tag("span", f"{name} ", tag("b", ", ".join(found))) for name, found in versions.items()]
    commits = [stage.manifest["code"] for stage in story.stages if stage.manifest.get("code")]
    if commits and commits[-1].get("commit"):
        changed = " with changes" if commits[-1].get("dirty") else ""
        told.append(tag("span", "code ", tag("b", str(commits[-1]["commit"])[:12], changed)))
    return tag("section", tag("h2", "Packages"), tag("p", join(told), class_="meta"))
