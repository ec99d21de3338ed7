"""Whether a name can be a model on the hub, found out before anything waits for the network."""

from pathlib import Path

from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import HFValidationError, validate_repo_id

SECONDS = 5.0  # to wait for the hub's answer; transformers itself tries for half a minute
WEIGHTS = {".bin", ".gguf", ".json", ".pt", ".pth", ".safetensors", ".txt", ".zip"}


def look_up_model(name: str) -> None:
    """Returns if a model is a folder here, is in the hub's cache, or the hub has answered.

    What the hub has answered is left to whoever loads the model.

    Args:
        name: a folder, or a model's name on the hub.

    Raises:
        OSError: if the name can only be a path, or the hub does not answer.
    """
    if Path(name).is_dir():
        return
    if not _is_model_name(name):
        raise FileNotFoundError(f"there is no folder {name!r}")
    if is_offline_mode() or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=SECONDS)
    except HfHubHTTPError:
        return
    except Exception as error:  # which ones depends on the client's transport
        raise ConnectionError(f"the hub does not answer ({type(error).__name__})") from error


def _is_model_name(name: str) -> bool:
    """Whether a model on the hub may have this name; one that ends like a file has none."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return Path(name).suffix.lower() not in WEIGHTS
