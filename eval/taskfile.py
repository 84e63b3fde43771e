"""lm-eval task YAMLs without lm-eval: find one by name, merge its includes, hash it, write it.

lm-eval's rules are kept (lm_eval/tasks/_yaml_loader.py): `include:` is merged below the file's own
keys, and `!function module.name` is a module beside that YAML, else one that can be imported.
Functions of `eval.behaviour` are imported: lm-eval runs those tasks wherever cpt is installed, and their
fingerprint covers that package.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cpt.errors import ProbeError
from cpt.ids import atomic_write, fingerprint

#: The package whose functions shipped tasks call.
BEHAVIOUR = Path(__file__).resolve().parent / "behaviour"

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Function:
    """A `!function` tag: its name, and the module's file where one lies beside the YAML."""

    name: str
    module: Path | None

    @property
    def sources(self) -> list[Path]:
        """The files that it is made of: the module beside the YAML, or a package of ours."""
        if self.module is not None:
            return [self.module]
        if not self.name.startswith("eval.behaviour."):
            return []
        return sorted(file for end in ("*.py", "*.json") for file in BEHAVIOUR.glob(end))


@dataclass(frozen=True)
class TaskFile:
    """One local task: its name, its YAML, and its settings with all includes merged."""

    name: str
    path: Path
    config: dict[str, Any]

    @property
    def functions(self) -> list[Function]:
        """All `!function` tags of the settings."""
        return [value for value in _leaves(self.config) if isinstance(value, Function)]

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The entries of `metric_list` by name; empty where the task leaves them to lm-eval."""
        entries = [e for e in self.config.get("metric_list") or [] if "metric" in e]
        return {_metric_name(entry["metric"]): entry for entry in entries}

    @property
    def test_files(self) -> list[Path]:
        """The files beside the YAML that hold the items it is tested on, if they are such files."""
        files = _data_files(self)
        if isinstance(files, dict):
            files = files.get(self.config.get("test_split") or "test")
        return [file for file in _leaves(files) if isinstance(file, Path)]

    @property
    def content(self) -> list[str]:
        """All that the task's numbers depend on: settings, modules and local data files."""
        quiet = {"dataset_kwargs", "task_alias", "tag"}
        settings = {key: value for key, value in self.config.items() if key not in quiet}
        modules = {file for function in self.functions for file in function.sources}
        files = {path for path in _leaves(_data_files(self)) if isinstance(path, Path)}
        kwargs = self.config.get("dataset_kwargs") or {}
        return [
            dump(settings),
            dump(kwargs),
            fingerprint([*modules, *files]) if modules | files else "",
        ]


def find_tasks(folders: list[Path]) -> dict[str, Path]:
    """Task name -> YAML file, for the tasks in these folders; a later folder wins, as in lm-eval.

    Raises:
        ProbeError: no such folder, a YAML error, or two tasks of one name in one folder.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        here: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.yaml")):
            config = _parse(path)
            name = config.get("task")
            if not isinstance(name, str) or "group" in config:
                continue
            if name in here:
                raise ProbeError(f"{path}: task {name!r} already stands in {here[name]}")
            here[name] = path
        found.update(here)
    return found


def read_task(name: str, path: Path) -> TaskFile:
    """One task with its includes merged.

    Raises:
        ProbeError: a file that it includes is missing or includes it back.
    """
    config = _merged(path, ())
    config["task"] = name
    return TaskFile(name, path, config)


def write_task(task: TaskFile, folder: Path, data: Path | None, shots: int | None) -> None:
    """Write a task so that it runs from this folder alone: one YAML and its `!function` modules.

    Args:
        data: a JSONL file for the task's test split, in place of what the YAML names.
        shots: written as `num_fewshot` unless None.
    """
    kwargs = dict(task.config.get("dataset_kwargs") or {})
    files = {task.config.get("test_split") or "test": data} if data else _data_files(task)
    if files is not None:
        kwargs["data_files"] = files
    config = {**task.config, **({"dataset_kwargs": kwargs} if kwargs else {})}
    if shots is not None:
        config["num_fewshot"] = shots
    _write(folder / f"{task.name}.yaml", dump(config))
    for function in task.functions:
        if function.module is not None:
            _write(folder / _module_file(function.name), function.module.read_text("utf-8"))


def _write(path: Path, text: str) -> None:
    """Write where the text is another: a module's new time stamp makes lm-eval load it again."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        atomic_write(path, text)


def _module_file(function: str) -> str:
    return f"{function.rpartition('.')[0].replace('.', '/')}.py"


def _metric_name(metric: Any) -> str:
    return metric.name.rpartition(".")[2] if isinstance(metric, Function) else str(metric)


def _data_files(task: TaskFile) -> Any:
    """`dataset_kwargs.data_files`, a Path for each file that exists beside the YAML; or None."""

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolve(part) for key, part in value.items()}
        if isinstance(value, list):
            return [resolve(part) for part in value]
        if isinstance(value, str) and (path := task.path.parent / value).is_file():
            return path.resolve()
        return value

    return resolve((task.config.get("dataset_kwargs") or {}).get("data_files"))


def dump(config: dict[str, Any]) -> str:
    """The settings as YAML text that lm-eval reads back to the same settings."""
    return str(yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes `!function` tags and paths."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out; anchors read badly."""
        return True


_Dumper.add_representer(
    Function, lambda dumper, value: dumper.represent_scalar("!function", value.name)
)
_Dumper.add_multi_representer(Path, lambda dumper, value: dumper.represent_str(str(value)))


def _parse(path: Path) -> dict[str, Any]:
    """One file, its `!function` tags as `Function`."""

    class Loader(_Base):
        """A loader that knows which folder its file lies in."""

    def function(loader: Any, node: Any) -> Function:
        name = str(loader.construct_scalar(node))
        module = path.parent / _module_file(name)
        return Function(name, module.resolve() if module.is_file() else None)

    Loader.add_constructor("!function", function)
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProbeError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise ProbeError(f"{path}: is no lm-eval task; it holds {type(config).__name__}")
    return config


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ProbeError(f"{path}: includes itself")
    if not path.is_file():
        raise ProbeError(f"{seen[-1]}: includes {path}, which does not exist")
    config = _parse(path)
    includes = config.pop("include", None) or []
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        merged.update(_merged(path.parent / include, (*seen, path)))
    return merged | config


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]
