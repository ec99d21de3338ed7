"""Whether a name can be a dataset on the hub, found out before anything waits for the network."""

from pathlib import Path

from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .files import SHEETS, TABLES

SECONDS = 5.0  # to wait for the hub's answer; `datasets` itself tries for half a minute
FILES = {".json", ".jsonl", ".txt", ".gz", ".bz2", ".xz", ".zst", ".zip", *SHEETS, *TABLES}


def look_up_dataset(name: str) -> None:
    """Returns if the hub has answered, whatever it is; `datasets` reads the answer.

    Raises:
        OSError: if the name can only be a path, or the hub does not answer.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FileNotFoundError(name) from error
    if Path(name).suffix.lower() in FILES:
        raise FileNotFoundError(name)
    if is_offline_mode():  # `datasets` refuses at once
        return
    try:
        HfApi().dataset_info(name, timeout=SECONDS)
    except HfHubHTTPError:
        return
    except Exception as error:  # which ones depends on the client's transport
        raise ConnectionError(name) from error
