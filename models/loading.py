"""Loading published models: Stable Diffusion, CLIP, classifiers, caption models, from a folder or from the hub.

What a folder lacks the libraries would draw at random, and what they do not know they would drop: here every model is
whole, or a UserError names what is missing and what is left over.
"""

import contextlib
import importlib
import inspect
import logging
import queue
import re
import sys
import threading
from functools import lru_cache
from pathlib import Path

from common.files import UserError, missing, one_line

log = logging.getLogger(__name__)

HUB_SECONDS = 15  # that the hub has to say what a model consists of
LATENT_SCALE = 0.18215  # of Stable Diffusion 1 and 2: targets and decoded latents are scaled by it
SD = "Stable Diffusion in the diffusers layout (unet/, vae/, text_encoder/, tokenizer/, scheduler/), a folder or hub id"
_SD_PARTS = {  # part -> library and class
    "vae": ("diffusers", "AutoencoderKL"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}

# ---------------------------------------------------------------------------------------------- files of a model

_WEIGHTS = re.compile(  # names that the libraries read, with the variant (fp16) that some have; shards and their index too
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d+-of-\d+)?(?:\.(?P<first>\w+))??(?:-\d+-of-\d+)?"
    r"\.(?:safetensors|bin)(?:\.index(?:\.(?P<last>\w+))?\.json)?"
)
_OPEN_CLIP = (".safetensors", ".bin", ".pth")  # endings that open_clip looks for, whatever the name
_SETTINGS = (".json", ".txt", ".model")


def weights_variant(names):
    """Variant of a folder's weights, such as fp16, by its files' names; None where it has weights without one, or none at all."""
    found = [match for match in map(_WEIGHTS.fullmatch, names) if match]
    variants = sorted({match["first"] or match["last"] or "" for match in found})
    return variants[0] or None if variants else None  # "" sorts first


def weights_file(source):
    """The file that a source is, or that it names after a colon (ViT-B-32:FILE), Path; None for a folder or hub id."""
    return next((file for file in map(Path, (source, str(source).partition(":")[2])) if file.is_file()), None)


def model_files(path, *parts):
    """Files that a model is read from, for a run's record; none for one from the hub.

    Parameters
    ----------
    path : str or Path
        folder, file, open_clip's name:FILE, or hub id
    *parts : str
        subfolders of a diffusers folder; none for another model
    """
    if file := weights_file(path):
        return [file]
    files = []
    for folder in [Path(path) / part for part in parts] if parts else [Path(path)]:
        inside = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
        variant = weights_variant(file.name for file in inside)
        for file in inside:
            match = _WEIGHTS.fullmatch(file.name)
            read = (match["first"] or match["last"] or None) == variant if match else file.suffix in (*_SETTINGS, *_OPEN_CLIP)
            files += [file] * read
    return files


# ---------------------------------------------------------------------------------------------- folder or hub


def _locate(source, flag, what, part="", revision=None):
    """Folder or hub id that a model is loaded from, and the names of the files of the part.

    A UserError for a single file, for nothing of that name here and on the hub, and for no answer from the hub.
    """
    path = Path(source)
    if path.is_file():
        hint = " (diffusers' StableDiffusionPipeline.from_single_file converts a checkpoint of one file)" if part else ""
        raise UserError(f"{flag} {path} is a single file; give {what}{hint}")
    if not path.is_dir():
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        looks_local = path.is_absolute() or str(source).startswith(".") or (len(path.parts) > 1 and path.parent.is_dir())
        with contextlib.suppress(HFValidationError):
            if not looks_local:
                validate_repo_id(str(source))
                place, names = _on_hub(str(source), flag, revision)
                return place, [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/" if part else "")]
        raise missing(path, f"give {what} with {flag}")
    folder = path / part
    if not folder.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".ckpt", ".safetensors") and not _WEIGHTS.fullmatch(file.name)]
        single = files[0].name if files else None
        hint = f", only {single}, which diffusers' StableDiffusionPipeline.from_single_file converts" if single else ""
        hint = f", only {single}, which is no model by itself" if single and "lora" in single.lower() else hint
        raise UserError(f"{flag} {path} has no folder {part}{hint}; give {what}")
    return str(path), [file.name for file in folder.iterdir()]


@lru_cache
def _on_hub(repo, flag, revision=None):
    """Where a model of the hub is loaded from, its id or its folder in the cache, and the names of its files.

    Without an answer within HUB_SECONDS only what has been downloaded before is there.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        with _quiet():
            found = _within(HUB_SECONDS, lambda: HfApi().model_info(repo, revision=revision, timeout=HUB_SECONDS))
        return repo, tuple(file.rfilename for file in found.siblings)
    except GatedRepoError:
        raise UserError(f"{flag} {repo} is given out on {constants.ENDPOINT} to registered users only; sign in, or give a folder") from None
    except RevisionNotFoundError:
        raise UserError(f"{flag} {repo} has no revision {revision} on {constants.ENDPOINT}; check its name") from None
    except RepositoryNotFoundError:
        raise UserError(f"{flag} {repo} is neither a folder nor a model of {constants.ENDPOINT}; check the name") from None
    except Exception as error:  # of the network, of a proxy, or the hub is forbidden (HF_HUB_OFFLINE)
        try:
            folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        except Exception:
            raise UserError(
                f"{flag} {repo} is no folder here, and could not be downloaded from {constants.ENDPOINT} ({library_words(error)}); "
                "give a folder, or try again with a connection"
            ) from None
        log.warning("%s gives no answer; %s is taken as it was downloaded before", constants.ENDPOINT, repo)
        return str(folder), tuple(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


def _within(seconds, function):
    """Result of a function that has so many seconds; after them a TimeoutError, whatever it still waits for."""
    answer = queue.SimpleQueue()

    def ask():
        try:
            answer.put((function(), None))
        except Exception as error:
            answer.put((None, error))

    threading.Thread(target=ask, daemon=True).start()
    try:
        result, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds} seconds") from None
    if error is not None:
        raise error
    return result


# ---------------------------------------------------------------------------------------------- words

_ADVICE = re.compile(  # in libraries' words: about their own arguments, and some of it unsafe
    r"weights_only|allow_pickle|trust_remote_code|ignore_mismatched_sizes|low_cpu_mem_usage|force_download|from_tf|from_flax|"
    r"two options|trust the source|report this error|If you were trying|Otherwise, make sure|You can inspect"
)


def library_words(error):
    """A library's words for what went wrong, without its advice."""
    if "TorchScript" in str(error):
        return "a TorchScript archive; save its state_dict() in a file"
    if re.search(r"unpickl|weights.only|Unsupported global|pickled|PytorchStreamReader|Unable to load weights", str(error), re.IGNORECASE):
        file = re.search(r"'([^']+)'", str(error)) if "Unable to load" in str(error) else None
        return f"{Path(file[1]).name if file else 'a file of weights'} is broken or holds Python objects, which are not unpickled"
    sentences = re.split(r"(?<=[.;!?])\s+", one_line(error))
    words = " ".join(words for words in sentences if not _ADVICE.search(words))[:250].strip(" .,;")
    return words if " " in words else f"{type(error).__name__} {words}".strip()  # '101' and 'added_tokens' say nothing


def describe_faults(faults):
    """Words for {what is wrong with entries: their names}: '2 missing (a, b), 1 unexpected (c)'."""
    return ", ".join(f"{len(names)} {fault} ({name_some(names)})" for fault, names in faults.items() if names)


def name_some(names):
    """The first eight of a list of names, and how many there are besides."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# ---------------------------------------------------------------------------------------------- any model

# tables and counters that a model makes itself; versions differ in whether they write them
_OPTIONAL = re.compile(r"(^|\.)(position_ids|relative_position_index|num_batches_tracked)$")
_UNUSED = {  # entries that a whole model has and the part of it which is loaded here does not
    "CLIPTextModel": re.compile(r"(vision_model|visual_projection|text_projection)\.|logit_scale$"),
    "AutoModelForImageClassification": re.compile(r"(^|\.)pooler\."),
}
_TEMPORAL = re.compile(r"\.(attn|norm)_temp\.")


def load_model(kind, source, flag, what, *, part="", dtype=None, revision=None, **options):
    """A model of a class of transformers or diffusers, in evaluation mode and without gradients.

    A UserError for one that is not there, of another kind, or not whole: an entry is missing, left over, of another shape or not
    finite.

    Parameters
    ----------
    kind : class
        with from_pretrained
    source : str or Path
        folder or hub id
    flag, what : str
        that gave it, and that belongs there, for the error
    part : str
        subfolder
    dtype : torch.dtype, optional
        of the weights, float32 by default
    revision : str, optional
        of a model on the hub
    **options
        for from_pretrained
    """
    import torch

    dtype = dtype or torch.float32
    place, names = _locate(source, flag, what, part, revision)
    where, diffusers = f"{flag} {Path(place) / part}", kind.__module__.startswith("diffusers")
    stems = ("diffusion_pytorch_model",) if diffusers else ("model", "pytorch_model")
    if not any(name.startswith(stems) and _WEIGHTS.fullmatch(name) and "-of-" not in name for name in names):  # shards need their index
        raise UserError(
            f"{where} has no weights ({stems[0]}.safetensors, .bin, or an index of shards), only {name_some(sorted(names))}; give {what}"
        )
    variant = weights_variant(names)
    if variant:
        log.info("%s: weights of the variant %s", Path(place) / part, variant)
    options |= {"torch_dtype" if diffusers else "dtype": dtype, "variant": variant, "subfolder": part}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # names and shapes are compared below
    model, info = _from_pretrained(kind, place, flag, what, revision, **options)

    faults = _faults(model, info, _UNUSED.get(kind.__name__))
    if any(faults.values()):
        hint = "give the model as it was published"
        if faults["unexpected"] and all(map(_TEMPORAL.search, faults["unexpected"])):
            hint = "these are Tune-A-Video's layers, which are not part of the recipe: give the 2-D model"
        raise UserError(f"{where} does not fit {type(model).__name__}: {describe_faults(faults)}; {hint}")
    _check_finite(model, where, "give it as it was published" + ("" if dtype == torch.float32 else ", or use another --precision"))
    return model.eval().requires_grad_(False)


def _faults(model, info, unused):
    """What is wrong with the entries that a model was loaded from, {what: names}, by the library's own account.

    `info` is that of from_pretrained, `unused` the pattern of entries that may be left over, or None.
    """
    empty = [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]  # a shard lacked them
    shapes = {name: f"{name} {tuple(given)} for {tuple(wanted)}" for name, given, wanted in info["mismatched_keys"]}
    lacking = {*info["missing_keys"], *empty} - shapes.keys()
    left_over = [name for name in info["unexpected_keys"] if not (unused and unused.search(name))]
    return {
        "missing": sorted(name for name in lacking if not _OPTIONAL.search(name)),
        "unexpected": sorted(name for name in left_over if not _OPTIONAL.search(name)),
        "of another shape": sorted(shapes.values()),
    }


def load_helper(kind, source, flag, what, *, part="", revision=None):
    """A tokenizer or processor of transformers; errors as in `load_model`."""
    place, _ = _locate(source, flag, what, part, revision)
    return _from_pretrained(kind, place, flag, what, revision, subfolder=part)


def _from_pretrained(kind, place, flag, what, revision, **options):
    if kind.__name__.startswith("Auto") and kind.__module__.startswith("transformers"):
        options["trust_remote_code"] = False  # else a folder's own code would be asked about
    if revision:
        options["revision"] = revision
    try:
        with _quiet():
            return kind.from_pretrained(place, **options)
    except Exception as error:  # the libraries raise almost any kind for a missing or broken file
        raise _no_model(flag, Path(place) / options.get("subfolder", ""), what, error) from None


def _check_finite(model, where, advice="give it as it was published"):
    broken = [name for name, value in model.state_dict().items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UserError(f"{where} has NaN or infinity in {name_some(broken)}; {advice}")


def _no_model(flag, path, what, error):
    return UserError(f"{flag} {path} could not be loaded ({library_words(error)}); give {what}")


@contextlib.contextmanager
def _quiet():
    """Keep the libraries' reports of every step out of ours; what they say of weights is checked."""
    for name in ("diffusers", "transformers"):
        if name in sys.modules:
            importlib.import_module(f"{name}.utils.logging").disable_progress_bar()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


# ---------------------------------------------------------------------------------------------- Stable Diffusion


def load_sd_part(path, part, dtype=None):
    """One part of Stable Diffusion, in evaluation mode and without gradients; weights are float32 by default.

    `path` is a folder in the diffusers layout or a hub id, `part` vae, unet, scheduler, text_encoder or tokenizer. A UserError for
    one that is missing, broken or not whole, not of Stable Diffusion 1 or 2, or not to be had from the hub.
    """
    library, name = _SD_PARTS[part]
    kind = getattr(importlib.import_module(library), name)
    if part == "tokenizer":
        tokenizer = load_helper(kind, path, "--sd_path", SD, part=part)
        _check_tokenizer(tokenizer, Path(path) / part)
        return tokenizer
    config = load_sd_config(path, part)
    if part == "scheduler":
        from models.pipeline import noise_schedule

        return kind(**noise_schedule(config))
    return load_model(kind, path, "--sd_path", SD, part=part, dtype=dtype)


def load_sd_config(path, part):
    """Configuration of a part of Stable Diffusion, with the defaults of what its file does not say, dict.

    A UserError for one that is missing, broken, or of another model than the recipe can use. The tokenizer has none.
    """
    library, name = _SD_PARTS[part]
    kind = getattr(importlib.import_module(library), name)
    place, _ = _locate(path, "--sd_path", SD, part)
    where = Path(place) / part
    try:
        with _quiet():
            if library == "transformers":
                config, _ = kind.config_class.get_config_dict(place, subfolder=part)
                # of a whole CLIP, its text part
                filled = kind.config_class.from_dict(config.get("text_config") or config).to_dict()
            else:
                filled = config = kind.load_config(place, subfolder=part)
        if not isinstance(config, dict):
            raise ValueError(f"its configuration is a {type(config).__name__}")
    except Exception as error:
        raise _no_model("--sd_path", where, SD, error) from None
    try:
        _CHECKS[part](config)
    except ValueError as error:
        raise UserError(f"--sd_path {where} {error}; give Stable Diffusion 1 or 2, or a model fine-tuned from it") from None
    if library == "transformers":
        return filled
    if part == "scheduler":
        return config
    known = inspect.signature(kind.__init__).parameters
    unknown = [f"{key}={value}" for key, value in config.items() if key not in known and not key.startswith("_") and value]
    if unknown:
        log.warning("%s: settings unknown to this version of %s are left out: %s", where, library, ", ".join(unknown))
    return {key: setting.default for key, setting in known.items() if setting.default is not inspect.Parameter.empty} | config


def _check_vae(config):
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise ValueError(f"holds {config['_class_name']}, not AutoencoderKL")
    if config.get("latent_channels", 4) != 4:
        raise ValueError(f"has latents of {config['latent_channels']} channels, not 4")
    scale = config.get("scaling_factor", LATENT_SCALE)  # the first versions did not write it
    if scale != LATENT_SCALE:
        raise ValueError(f"scales latents by {scale}, and targets and decoded latents are scaled by {LATENT_SCALE}")
    shifts = [name for name in ("shift_factor", "latents_mean", "latents_std") if config.get(name)]
    if shifts:
        raise ValueError(f"shifts latents ({', '.join(shifts)}), which targets and decoded latents are not")


def _check_unet(config):
    from models.inflated_sd import check_unet

    if config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise ValueError(f"holds {config['_class_name']}, not UNet2DConditionModel")
    check_unet(config)


def _check_scheduler(config):
    from models.pipeline import noise_schedule

    noise_schedule(config)


def _check_text_encoder(config):
    if config.get("model_type") not in ("clip_text_model", "clip"):  # alone, or within a whole CLIP
        raise ValueError(f"holds a model of the type {config.get('model_type')}, not clip_text_model")


_CHECKS = {"vae": _check_vae, "unet": _check_unet, "scheduler": _check_scheduler, "text_encoder": _check_text_encoder}


def _check_tokenizer(tokenizer, where):
    """Raise a UserError for a vocabulary or merges that are not there; the library would spell words letter by letter."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [(word[:-4], number) for word, number in vocabulary if word.endswith("</w>") and word[:-4].isalpha() and word[1:-4].isascii()]
    words = [word for word in words if len(word[0]) > 1]
    some = words[:: max(1, len(words) // 200)] + words[-50:]
    wrong = [word for word, number in some if tokenizer(word).input_ids != [tokenizer.bos_token_id, number, tokenizer.eos_token_id]]
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)) or wrong:
        lacks = f"does not join the letters of {wrong[0]!r}, which it has a token for" if wrong else "has no vocabulary"
        raise UserError(f"--sd_path {where} {lacks}; copy its files again (vocab.json and merges.txt, or tokenizer.json)")


def check_sd(path):
    """Configurations of a Stable Diffusion's parts, {part: dict}; this tells at the start what would otherwise fail clip by clip.

    A UserError for a part that is missing, of another model, or does not fit the others.
    """
    configs = {part: load_sd_config(path, part) for part in _CHECKS}
    unet, vae, text = (configs[part] for part in ("unet", "vae", "text_encoder"))
    channels = [unet["in_channels"], unet["out_channels"]]
    if channels != 2 * [vae["latent_channels"]]:
        raise UserError(
            f"--sd_path {path}: the UNet takes {channels[0]} channels and gives {channels[1]}, and the VAE's latents have "
            f"{vae['latent_channels']}; give a text-to-image model, not one for inpainting, depth or upscaling"
        )
    if unet["cross_attention_dim"] != text["hidden_size"]:
        raise UserError(
            f"--sd_path {path}: the UNet takes tokens of width {unet['cross_attention_dim']}, and the text encoder's have "
            f"{text['hidden_size']}; give the parts of one model"
        )
    _check_vocabulary(path, load_sd_part(path, "tokenizer"), text["vocab_size"])
    return configs


def load_sd_text(path):
    """Tokenizer and text encoder of Stable Diffusion, as of `load_sd_part`, checked to fit each other."""
    tokenizer, encoder = load_sd_part(path, "tokenizer"), load_sd_part(path, "text_encoder")
    _check_vocabulary(path, tokenizer, encoder.config.vocab_size)
    return tokenizer, encoder


def _check_vocabulary(path, tokenizer, size):
    highest = max(tokenizer.get_vocab().values())
    if highest >= size:
        raise UserError(
            f"--sd_path {path}: the tokenizer has tokens up to {highest}, and the text encoder {size}; give the parts of one model"
        )


# ---------------------------------------------------------------------------------------------- CLIP

CLIP = "a CLIP of open_clip, a folder or name:weights such as ViT-B-32:openai"
_QUICK = "-quickgelu"  # ending of open_clip's names of models with the quick GELU


def load_clip(path, flag="--clip_path"):
    """A CLIP model of open_clip, in evaluation mode and without gradients.

    Weights that open_clip knows by a tag come with their activation. A file's is said by the name: ViT-B-32:FILE has the
    GELU, ViT-B-32-quickgelu:FILE the quick GELU of OpenAI's weights. A UserError for one that is missing, broken or not whole, or
    not to be had from the hub.

    Parameters
    ----------
    path : str or Path
        open_clip folder (open_clip_config.json and weights), hf-hub:..., or name:weights such as ViT-B-32:openai
    flag : str
        that gave it, for the error

    Returns
    -------
    model : torch.nn.Module
        with encode_text and encode_image
    preprocess : function
        PIL image -> tensor, (3, H, W)
    tokenizer : function
        list of str -> tensor, (B, L)
    """
    import open_clip

    name, weights, quick = _clip_source(str(path), flag)
    try:
        with _root_messages() as said:
            model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=weights, force_quick_gelu=quick)
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip raises RuntimeError, ValueError, KeyError, ... for a missing or broken file
        if faults := _strict_faults(str(error)):
            raise UserError(f"{flag} {path} does not fit CLIP: {describe_faults(faults)}; give the model as it was published") from None
        raise _no_model(flag, path, CLIP, error) from None
    resized = [words for words in said if words.startswith("Resizing")]
    if resized:
        raise UserError(f"{flag} {path} has weights of another size than its settings say ({resized[0]}); give it as it was published")
    _check_finite(model, f"{flag} {path}")
    return model.eval().requires_grad_(False), preprocess, tokenizer


def _strict_faults(words):
    """Names in the words of torch's strict load_state_dict, {what is wrong with them: names}."""
    faults = {"of another shape": re.findall(r"size mismatch for (\S+):", words)}
    for fault, head in (("missing", "Missing"), ("unexpected", "Unexpected")):
        faults[fault] = re.findall(r'"([^"]+)"', "".join(re.findall(rf"{head} key\(s\) in state_dict: (.*)", words)))
    return {fault: names for fault, names in faults.items() if names}


def _clip_source(source, flag):
    """What open_clip is asked for: name, weights, and whether the quick GELU is to be set."""
    import open_clip

    path = Path(source)
    if path.is_dir():
        return f"local-dir:{_clip_folder(path, flag)}", None, False
    if source.startswith("hf-hub:"):
        place, _ = _on_hub(source.removeprefix("hf-hub:"), flag)
        return f"local-dir:{place}" if Path(place).is_dir() else source, None, False
    name, colon, weights = source.partition(":")
    if path.is_file():
        raise UserError(f"{flag} {path} is a single file; put the model's name before it, such as ViT-B-32:{path}")
    if not colon or path.is_absolute() or source.startswith("."):
        raise missing(path, f"give {CLIP}, or hf-hub:name, with {flag}")
    name, models = name.replace("/", "-"), open_clip.list_models()
    known = name if name in models else name.removesuffix(_QUICK)
    if known not in models:
        raise UserError(f"{flag} {source}: open_clip has no model {name}; give {CLIP}")
    quick = name.endswith(_QUICK)
    if Path(weights).is_file():
        used = "quick GELU" if quick or open_clip.get_model_config(known).get("quick_gelu") else "GELU"
        log.info("%s: %s, as the name %s says; names that end in %s have the quick GELU of OpenAI's weights", weights, used, name, _QUICK)
        return known, weights, quick
    tag = open_clip.get_pretrained_cfg(known, weights)
    if not tag and ("/" in weights or Path(weights).suffix):
        raise missing(weights, f"check {flag} {source}")
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(known)) or "none"
        raise UserError(f"{flag} {source}: {weights or 'nothing'} is neither a file nor a tag of {known}; its tags are {tags}")
    _on_hub(tag["hf_hub"].rpartition("/")[0], f"{flag} {source}:")  # says so when it does not answer, where open_clip would wait
    return known, weights, quick or tag.get("quick_gelu", False)


def _clip_folder(path, flag):
    """An open_clip folder, if there is no doubt about its weights: open_clip itself would go on with random ones."""
    names = sorted(file.name for file in path.iterdir())
    weights = [name for name in names if Path(name).suffix in _OPEN_CLIP]
    named = [name for name in weights if Path(name).stem in ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")]
    if "open_clip_config.json" not in names:
        raise UserError(f"{flag} {path} has no open_clip_config.json; give {CLIP}")
    if not weights:
        raise UserError(
            f"{flag} {path} has no weights that open_clip looks for (open_clip_model.safetensors, .bin or .pth), only "
            f"{', '.join(names)}; give the folder as it was published"
        )
    if len(weights) > 1 and not named:
        raise UserError(f"{flag} {path} has several files of weights ({', '.join(weights)}); leave one of them in the folder")
    return path


@contextlib.contextmanager
def _root_messages():
    """List of what is said through the root logger, which open_clip uses; nothing of it is shown."""
    said, root = [], logging.root
    keeper = logging.Handler()
    keeper.emit = lambda record: said.append(record.getMessage())
    before = root.handlers, root.level
    root.handlers, root.level = [keeper], logging.INFO
    try:
        yield said
    finally:
        root.handlers, root.level = before
