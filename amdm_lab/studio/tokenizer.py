"""CLIP's own tokenizer without a download: from a folder with its files, or made of what the `clip` package has."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer

from lib_amdm.errors import AmdmError

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY = 49408
TOKENS = 77
"""Length of a text for CLIP, its begin and end tokens included."""
FILES = ("vocab.json", "merges.txt")


def read_tokenizer(folder: Path | None) -> CLIPTokenizer:
    """Read the tokenizer in a folder; without its files there, return CLIP's own."""
    if folder is not None and all((folder / name).is_file() for name in FILES):
        return CLIPTokenizer.from_pretrained(folder)
    return _own_tokenizer()


@functools.cache
def _own_tokenizer() -> CLIPTokenizer:
    # transformers 4 reads a vocabulary from files alone
    with tempfile.TemporaryDirectory() as folder:
        return CLIPTokenizer.from_pretrained(write_tokenizer(Path(folder)))


def write_tokenizer(folder: Path) -> Path:
    """Write CLIP's tokenizer in transformers' layout, from the BPE file of the `clip` package; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = _merges()
    letters = _letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    return folder


def _merges() -> list[str]:
    package = importlib.util.find_spec("clip")
    file = Path(package.origin).with_name(BPE_FILE) if package and package.origin else None
    if file is None or not file.is_file():
        raise AmdmError(f"CLIP's tokenizer needs {BPE_FILE} of the `clip` package; install clip-anytorch.")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    # the first line is a heading, and CLIP's vocabulary ends before the file does
    return lines[1 : VOCABULARY - 2 - 2 * 256 + 1]


def _letters() -> list[str]:
    """Return the 256 bytes as printable characters, in the vocabulary's order: those that print, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
