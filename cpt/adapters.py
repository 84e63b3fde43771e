"""Adapters on disk, and a registry of those that share one base: one per task, routed by name.

    folder/registry.json  {"base": {folder, fingerprint, quantise}, "adapters": {name: {folder, base, stage}}}
    folder/<name>/        a PEFT adapter

The base stays frozen, so what a task's adapter gives never changes, whatever is added or deleted beside it.
Adapters that were trained on 4-bit weights share a base that says so, and are served on these weights, made
whole again: on the ones before they would be other models.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt import checkpoint, ids, manifest, quantised
from cpt.errors import StoreError
from cpt.settings import did_you_mean
from cpt.store import replacing

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

REGISTRY = "registry.json"
#: Routes to the base itself.
BASE = "base"
_WEIGHTS = "adapter_model.safetensors"


def weights(folder: Path) -> "dict[str, Tensor]":
    """An adapter's weights by the bare names that they have while a stage trains them.

    Raises:
        StoreError: they are missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from cpt.params import bare_name

    try:
        saved = load_file(str(folder / _WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{folder}: holds no whole adapter ({error})") from None
    # On disk PEFT leaves out how the adapter is called.
    named = {}
    for name, value in saved.items():
        module, factor, rest = bare_name(name).rpartition(".lora_")
        letter, dot, rest = rest.partition(".")
        named[f"{module}{factor}{letter}.default{dot}{rest}"] = value
    return named


def base_of(stage: Path) -> Path:
    """The folder of the weights below the adapter that a finished stage keeps apart.

    Raises:
        StoreError: the stage keeps none apart, or on a base that is no folder.
    """
    entry = manifest.read(stage)
    if entry.start == "checkpoint" or not (stage / "adapter").is_dir():
        raise StoreError(f"{stage}: keeps no adapter apart; train it with lora: {{after: keep}}")
    base = (stage / entry.start).resolve()
    if not base.is_dir():
        raise StoreError(
            f"{stage}: its adapter lies on {entry.start}, which is no folder on this machine"
        )
    return base


def collect(stages: Sequence[tuple[str, Path]], folder: Path) -> "Registry":
    """Make a registry of finished stages' adapters, in place of one that was in `folder`.

    Args:
        stages: (name, stage folder).

    Raises:
        StoreError: there are none, two lie on different bases, or the folder holds other files.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REGISTRY).is_file():
        raise StoreError(f"{folder}: holds other files; name a new folder")
    if not stages:
        raise StoreError(
            "no finished stage keeps its adapter apart; train one with lora: {after: keep}"
        )
    base = base_of(stages[0][1])
    with replacing(folder) as partial:
        tree: dict[str, Any] = {
            "folder": os.path.relpath(base, folder.resolve()),
            "fingerprint": _print(base),
        }
        if (held := quantised.of_stage(stages[0][1])) is not None:
            tree["quantise"] = asdict(held)
        (partial / REGISTRY).write_text(json.dumps({"base": tree, "adapters": {}}))
        registry = Registry(partial)
        for name, stage in stages:
            registry.take(name, stage)
    return Registry(folder)


def open_registry(folder: Path, **load: Any) -> "Registry":
    """A registry with its base and all its adapters loaded, the base active.

    Args:
        load: `dtype`, `attention` and `trust_remote_code`, as of `cpt.checkpoint.load_model`.

    Raises:
        StoreError: no registry, or its base is gone or another one.
    """
    registry = Registry(folder)
    registry.open(**load)
    return registry


class Registry:
    """Adapters by name on one frozen base. Not for two threads: one adapter is active at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            tree = json.loads((folder / REGISTRY).read_text(encoding="utf-8"))
            self.base: dict[str, Any] = tree["base"]
            self.adapters: dict[str, dict[str, str]] = tree["adapters"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{folder}: holds no registry of adapters ({error})") from None
        self.model: Any = None
        self.active = BASE
        self.load: dict[str, Any] = {}

    @property
    def base_folder(self) -> Path:
        """Where the weights below all adapters are."""
        return (self.folder.resolve() / str(self.base["folder"])).resolve()

    def open(self, **load: Any) -> None:
        """Load the base and all adapters."""
        if not self.base_folder.is_dir() or _print(self.base_folder) != self.base["fingerprint"]:
            raise StoreError(
                f"{self.base_folder}: is not the base that the adapters of {self.folder} were trained on"
            )
        self.load = load
        self.model = self._below().requires_grad_(False)
        for name in self.adapters:
            self._attach(name)
        self.off()

    def take(self, name: str, stage: Path) -> None:
        """Copy a stage's adapter into the folder.

        Raises:
            StoreError: the name is taken or unfit, or the adapter lies on another base.
        """
        if name in self.adapters or name == BASE or "." in name:
            problem = "is taken" if "." not in name else "has a dot, which PEFT does not take"
            raise StoreError(f"{self.folder}: the name {name!r} {problem}")
        base = base_of(stage)
        if (found := _print(base)) != self.base["fingerprint"]:
            raise StoreError(
                f"{stage}: its adapter lies on {base}, and those of {self.folder} on {self.base_folder}; "
                f"adapters of one registry share one base"
            )
        if (held := quantised.of_stage(stage)) != self._held:
            raise StoreError(
                f"{stage}: its adapter was trained on {_told(held)}, and those of {self.folder} on "
                f"{_told(self._held)}; collect them apart"
            )
        with replacing(self.folder / name) as partial:
            for file in (_WEIGHTS, "adapter_config.json"):
                shutil.copy2(stage / "adapter" / file, partial / file)
        self.adapters[name] = {"folder": name, "base": found, "stage": manifest.read(stage).id}
        self._write()

    def add(self, name: str, stage: Path) -> None:
        """Take a stage's adapter and load it; which one is active stays as it is."""
        self.take(name, stage)
        self._attach(name)
        self.activate(self.active)

    def activate(self, name: str) -> Any:
        """Make an adapter the one that acts, or none (`base`). Returns: the model.

        Raises:
            StoreError: there is no such adapter.
        """
        if name != BASE:
            self._check(name)
        self.active = name
        if self.adapters:
            tuner = self.model.base_model
            if name == BASE:
                tuner.disable_adapter_layers()
            else:
                tuner.enable_adapter_layers()
                self.model.set_adapter(name, inference_mode=True)
        return self.model.eval()

    def off(self) -> Any:
        """The base alone. Returns: the model."""
        return self.activate(BASE)

    @contextmanager
    def route(self, name: str) -> Iterator[Any]:
        """The model as the task of this name is served; afterwards as it was."""
        before = self.active
        try:
            yield self.activate(name)
        finally:
            self.activate(before)

    def delete(self, name: str) -> None:
        """Remove an adapter: its tensors, its folder, its entry."""
        self._check(name)
        if self.active == name:
            self.off()
        if len(self.adapters) > 1:
            self.model.delete_adapter(name)
        else:  # PEFT would leave its empty layers
            self.model = self.model.unload()
        place = self.folder / self.adapters.pop(name)["folder"]
        self._write()
        shutil.rmtree(place)
        self.activate(self.active)

    def merged(self, name: str) -> "PreTrainedModel":
        """An ordinary model of its own: the base with one adapter added to its weights."""
        from peft import PeftModel

        self._check(name)
        below = self._below()
        adapted = PeftModel.from_pretrained(below, str(self.folder / self.adapters[name]["folder"]))
        plain: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
        return plain.eval()

    @property
    def _held(self) -> quantised.Quantisation | None:
        """How the base was held while the adapters were trained."""
        return quantised.Quantisation(**self.base["quantise"]) if "quantise" in self.base else None

    def _below(self) -> "PreTrainedModel":
        """The weights that the adapters were trained on."""
        model = checkpoint.load_model(str(self.base_folder), quantise=self._held, **self.load)
        return quantised.merged(model, model.dtype) if self._held else model

    def _check(self, name: str) -> None:
        if name not in self.adapters:
            hint = did_you_mean(name, self.adapters)
            raise StoreError(f"{self.folder}: no adapter {name!r}{hint}")

    def _attach(self, name: str) -> None:
        from peft import PeftModel

        folder = str(self.folder / self.adapters[name]["folder"])
        if isinstance(self.model, PeftModel):
            self.model.load_adapter(folder, adapter_name=name)
        else:
            self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=name)

    def _write(self) -> None:
        tree = {"base": self.base, "adapters": self.adapters}
        ids.atomic_write(self.folder / REGISTRY, json.dumps(tree, indent=1) + "\n")


def _told(held: quantised.Quantisation | None) -> str:
    return f"weights in 4 bits ({held})" if held else "whole weights"


def _print(folder: Path) -> str:
    """Fingerprint of a base."""
    return checkpoint.fingerprint(folder)
