"""`data:` of a probe: a view that a corpus builder of `cpt.corpora` writes as JSONL."""

from pathlib import Path

from cpt.errors import CptError, ProbeError
from cpt.settings import Settings, did_you_mean


class ViewSpec(Settings):
    """Which builder, over which source, and which of its views."""

    builder: str
    view: str
    source: str | None = None


def check_view(where: str, path: Path, data: ViewSpec) -> ViewSpec:
    """The view with its names checked, and a source folder made absolute from the suite's file.

    Raises:
        ProbeError: no such builder or view.
    """
    from cpt import corpora

    if data.builder not in corpora.BUILDERS:
        near = did_you_mean(data.builder, corpora.BUILDERS)
        raise ProbeError(f"{where}.data.builder: no builder {data.builder!r}{near}")
    views = corpora.view_names(data.builder)
    if data.view not in views:
        near = did_you_mean(data.view, views)
        raise ProbeError(f"{where}.data.view: {data.builder} has no view {data.view!r}{near}")
    if data.source is not None and (path.parent / data.source).is_dir():
        return data.model_copy(update={"source": str((path.parent / data.source).resolve())})
    return data


def builder_fingerprint(where: str, data: ViewSpec, known: dict[tuple[str, str], str]) -> str:
    """Hash of the builder and its source; builds nothing. `known` keeps what was asked for before.

    Raises:
        ProbeError: the source cannot be read.
    """
    from cpt import corpora

    key = data.builder, str(data.source)
    try:
        if key not in known:
            known[key] = corpora.fingerprint_of(data.builder, data.source)
        return known[key]
    except CptError as error:
        raise ProbeError(f"{where}.data: {error}") from None


def view_file(data: ViewSpec) -> Path:
    """The view's JSONL file; builds it where it is missing."""
    from cpt import corpora

    return (corpora.views(data.builder, data.source) / f"{data.view}.jsonl").resolve()
