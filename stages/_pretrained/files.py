"""Where a model in Hugging Face format lies; only what is neither pickle nor code is fetched."""

import re
from pathlib import Path

from serving.errors import StillhouseError
from stages._params import Pretrained
from stages._sources.fetch import expand, home_path

FILES = (
    *("model*.safetensors", "model.safetensors.index.json", "config.json"),
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
)
COMMIT = re.compile("[0-9a-f]{40}")


def locate(settings: Pretrained, offline: bool) -> tuple[Path, str | None]:
    name, revision = settings.model, settings.revision
    folder = home_path(expand(name))
    if folder.is_dir():
        return folder, None
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise StillhouseError(f"model {name!r}: expected a folder that exists or owner/name.")
    if not COMMIT.fullmatch(revision or ""):
        raise StillhouseError(
            f"model {name} has revision {revision!r}: expected the 40 hexadecimal digits of a "
            f"commit, because names of branches move. Its page on the hub lists the commits."
        )
    return Path(_snapshot(name, str(revision), offline)), revision


def _snapshot(name: str, revision: str, offline: bool) -> str:
    from huggingface_hub import errors, snapshot_download

    try:
        return snapshot_download(
            name, revision=revision, allow_patterns=list(FILES), local_files_only=offline
        )
    except errors.RevisionNotFoundError:
        raise StillhouseError(
            f"{name} has no revision {revision}. Take a commit that its page on the hub lists."
        ) from None
    except errors.GatedRepoError:
        raise StillhouseError(
            f"{name} asks for its licence to be accepted. Do so on its page, then: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise StillhouseError(
            f"The hub shows no model {name}. Correct its name, or, if it is private: hf auth login"
        ) from None
    except Exception as error:  # the hub's, httpx's and the file system's errors
        why = "run.offline is true" if offline else f"it cannot be fetched ({said(error)})"
        step = "Set run.offline: false once to fetch it" if offline else "Try again"
        raise StillhouseError(
            f"{name} at {revision} is not (whole) in this machine's cache, and {why}. {step}, or "
            f"name a local folder."
        ) from None


def check_files(folder: Path) -> None:
    present = sorted(path.name for path in folder.iterdir())
    found = f"found: {', '.join(present[:8]) or 'nothing'}"
    if (folder / "adapter_config.json").is_file():
        raise StillhouseError(
            f"{folder} holds an adapter, not a model. Merge it into its base and name the result."
        )
    if not {"model.safetensors", "model.safetensors.index.json"} & set(present):
        pickled = [name for name in present if name.endswith((".bin", ".pt", ".pth"))]
        step = "Convert it to safetensors" if pickled else "Name a model saved as safetensors"
        why = "only pickled weights, which are never loaded" if pickled else "no safetensors"
        raise StillhouseError(f"{folder} has {why} ({found}). {step}.")
    for name in ("config.json", "tokenizer.json"):
        if name not in present:
            raise StillhouseError(f"{folder} has no {name} ({found}). Save the model whole.")


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
