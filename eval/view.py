"""`data:` of a probe: a view that a corpus builder of `cpt.corpora` writes as JSONL."""

from pathlib import Path
from typing import Any

from cpt.errors import CptError, ProbeError
from cpt.inline import expand_data
from cpt.settings import Settings, did_you_mean


class ViewSpec(Settings):
    """Which builder, over which source, and which of its views."""

    builder: str
    view: str
    source: str | None = None


def with_data_configs(path: Path, tree: Any) -> Any:
    """A suite's tree with the data configs that its probes `use:` read and inlined.

    Raises:
        ProbeError: no such config.
    """
    probes = tree.get("probes") if isinstance(tree, dict) else None
    if not isinstance(probes, dict):
        return tree
    done = {}
    for name, probe in probes.items():
        done[name] = probe
        if (
            isinstance(probe, dict)
            and isinstance(probe.get("data"), dict)
            and "use" in probe["data"]
        ):
            where = f"{path}: probes.{name}.data"
            try:
                data = expand_data(probe["data"], path.parent, where)
            except CptError as error:
                raise ProbeError(str(error)) from None
            own = {key: data[key] for key in ViewSpec.model_fields if key in data}
            done[name] = {**probe, "data": own}
    return {**tree, "probes": done}


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
