"""Adapters at work on a model: files kept in memory, pictures and phrases encoded once, hooks for one evaluation.

What is a host's own is how a text encoder is asked (`Phrases`), and how the rows of the main model's batch are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..adapters.attach import attached, blocks_of
from ..adapters.base import Adapter, Prepared, Rows
from ..adapters.clip_vision import read_clip_vision
from ..adapters.container import opened
from ..adapters.files import read_adapter
from ..adapters.ip_adapter import Encoder, IPAdapter
from ..adapters.make import adapter_of
from ..adapters.migc import Migc
from ..errors import AdapterError, AmdmError
from ..layout import Layout
from ..settings import AdapterSettings
from . import pictures
from .cache import FileState, InMemory, Loaded, Pool, Recent
from .file_list import FileList

FEATURES_KEPT = 16


class Phrases(Protocol):
    """A model's text encoder, asked for a layout's phrases."""

    def pooled(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """CLIP's pooler output (width,) of each text: after the last layer and its norm, at the first end token."""

    def contexts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Each text as the UNet is told it, (77, width)."""


@dataclass(frozen=True)
class Place:
    """The model that an adapter is put on.

    family: in a user's words, "SD1" or "SD1 inpainting". seeds: those of the batch's images. error_prefix: the
    beginning of an error's text, "AMDM slot 2". panel_label: the name of the slot's controls, "co-model 2".
    """

    unet: nn.Module
    family: str
    phrases: Phrases
    seeds: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    error_prefix: str
    panel_label: str


class Adapters:
    """A host's adapter files: what is loaded of them, and the features of pictures. It lives and dies with the host."""

    def __init__(self, files: FileList, encoders: FileList) -> None:
        self.files, self.encoders = files, encoders
        self.pool, self.features = Pool(), Recent(FEATURES_KEPT)
        self._encoders: dict[Encoder, FileState] = {}

    def prepare(self, adapted: AdapterSettings, place: Place) -> AtWork:
        """The adapter that `adapted` names, told everything, ready to work on the place's UNet; AmdmError in words."""
        with in_words(place.error_prefix):
            adapter = self._adapter(adapted.adapter, place)
            self._refuse_stranger(adapter, place)
            return AtWork(self._told(adapter, adapted, place))

    def refresh(self) -> None:
        self.files.refresh()
        self.encoders.refresh()

    def trim(self, limit: int, used: int) -> int:
        """Keep `limit`, or as many as the last picture used where these are more; none at all for 0.

        Returns how many were dropped.
        """
        return self.pool.trim(max(limit, used) if limit else 0)

    def listing(self) -> list[InMemory]:
        return self.pool.listing("adapter")

    def unload(self) -> list[InMemory]:
        self.features.clear()
        return self.pool.unload("adapter")

    def _adapter(self, name: str, place: Place) -> Adapter:
        path = self.files.path(name)
        if path is None or not path.is_file():
            # it may have come, or gone elsewhere, after the list was made
            self.files.refresh()
            path = self.files.path(name)
        if path is None:
            raise AmdmError(f'{place.error_prefix}: "{name}" is not in the list of adapters; choose one that is.')
        title = self.files.title(name)

        def read() -> Loaded:
            adapter = adapter_of(read_adapter(path))
            # half precision is not enough for MIGC's own layers; its results are cast
            dtype = torch.float32 if isinstance(adapter, Migc) else place.dtype
            return Loaded(title, adapter.to(dtype=dtype).eval())

        return self.pool.get(str(path), place.dtype, read).model.to(place.device)

    def _refuse_stranger(self, adapter: Adapter, place: Place) -> None:
        if adapter.family != place.family.split(" ")[0]:
            raise AmdmError(
                f'{place.error_prefix}: "{adapter.name}" is for {adapter.family}, but the checkpoint it is put on is '
                f"{place.family}; choose an adapter made for it."
            )
        adapter.layers(blocks_of(place.unet))

    def _told(self, adapter: Adapter, adapted: AdapterSettings, place: Place) -> Prepared:
        often = {"strength": adapted.strength, "until": adapted.until}
        if isinstance(adapter, IPAdapter):
            return adapter.told(*self._features(adapter, adapted.image, place), **often)
        layout = Layout.read(adapted.layout)
        if not layout:
            raise AmdmError(
                f'{place.error_prefix}: "{adapter.name}" needs a layout; write phrases with their boxes into the '
                f"layout of {place.panel_label}."
            )
        texts = adapter.phrases(layout)
        pooled = place.phrases.pooled(texts)
        if isinstance(adapter, Migc):
            return adapter.told([layout], pooled, place.phrases.contexts(texts), **often, seeds=place.seeds)
        return adapter.told([layout], pooled, **often)

    def _features(self, adapter: IPAdapter, image: str, place: Place) -> tuple[Tensor, Tensor]:
        if not image:
            raise AmdmError(
                f'{place.error_prefix}: "{adapter.name}" needs a reference picture; choose one as the image of '
                f"{place.panel_label}."
            )
        wanted = adapter.needs_encoder
        path = self._encoder(wanted, adapter, place.error_prefix)
        state = FileState.of(str(path))

        def encode() -> tuple[Tensor, Tensor]:
            # asked for both at once, so that the encoder is loaded for no other reason
            encoder = read_clip_vision(path).to(place.device, torch.float32)
            # shrunk before it becomes floats: a photograph's are hundreds of megabytes
            small = pictures.shrunk(pictures.opened(image, place.error_prefix), encoder.size)
            seen = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
            with torch.no_grad():
                return encoder.features(seen.to(place.device), wanted).cpu(), encoder.blank(wanted).cpu()

        return self.features.get((pictures.fingerprint(image), state, wanted.output), encode)

    def _encoder(self, wanted: Encoder, adapter: IPAdapter, error_prefix: str) -> Path:
        """The file of the image encoder; it is looked for again only where it has changed."""
        kept = self._encoders.get(wanted)
        if kept is not None and Path(kept.path).is_file() and FileState.of(kept.path) == kept:
            return Path(kept.path)
        self.encoders.refresh()
        named = re.compile("big|_g|-g" if "big" in wanted.name else "_h|-h", re.IGNORECASE)
        candidates = sorted(self.encoders.files.items(), key=lambda item: not named.search(item[0]))
        for _, path in candidates:
            if path.is_file() and self._fits(path, wanted):
                self._encoders[wanted] = FileState.of(str(path))
                return path
        raise AmdmError(
            f'{error_prefix}: "{adapter.name}" needs the image encoder {wanted.name or "that it came with"}, which is '
            "in none of the folders; put CLIP-ViT-H-14.safetensors (for bigG CLIP-ViT-bigG.safetensors) into "
            "models/clip_vision or models/amdm."
        )

    def _fits(self, path: Path, wanted: Encoder) -> bool:
        """Told by the shapes in the file, because reading one to see takes seconds."""
        try:
            shapes = opened(path).shapes
        except AdapterError:
            return False

        def size(end: str, dimension: int) -> int | None:
            return next((shape[dimension] for key, shape in shapes.items() if key.endswith(end)), None)

        if wanted.output == "image_embeds":
            found = (size("visual_projection.weight", 0), size("visual.proj", 1))
        else:
            found = (size("vision_model.embeddings.class_embedding", 0), size("visual.class_embedding", 0))
        return wanted.width in found


class AtWork:
    """An adapter on one model in one pass. It acts in the UNet calls that are announced, and in no other."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.rows: Rows | None = None

    @property
    def name(self) -> str:
        return self.prepared.adapter.name

    @property
    def size(self) -> int:
        """In bytes."""
        return self.prepared.adapter.size_in_bytes()

    def announce(self, images: Iterable[int], prompts: Iterable[bool], progress: float) -> None:
        """What the rows of the next call are: see `adapters.base.Rows`."""
        self.rows = Rows(tuple(images), tuple(prompts), progress)

    def end_call(self) -> None:
        self.rows = None

    @contextmanager
    def on(self, unet: nn.Module) -> Iterator[None]:
        with attached(unet, [self.prepared], lambda: self.rows):
            try:
                yield
            finally:
                self.end_call()

    def park(self) -> None:
        """Make room on the device."""
        self.prepared.adapter.to("cpu")


class MainRows:
    """The rows of the main model's UNet calls, where a host evaluates one batch in one or several calls.

    The whole batch is a row for each part of each image's prompt, in order, and then one for each image's negative
    prompt; calls take it piece by piece, or leave the negatives out at the end.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        """parts: how many parts each image's prompt has."""
        owners = [image for image, count in enumerate(parts) for _ in range(count)]
        self._images = [*owners, *range(len(parts))]
        self._prompts = [True] * len(owners) + [False] * len(parts)
        self._taken = 0

    def take(self, count: int) -> tuple[list[int], list[bool]]:
        """The next `count` rows: their images, and whether they are told a prompt."""
        taken = slice(self._taken, self._taken + count)
        self._taken += count
        if self._taken > len(self._images):
            raise AdapterError(
                f"The main model was shown {self._taken} rows where {len(self._images)} were announced; another "
                "extension changes the batch: switch it off, or the main adapter."
            )
        return self._images[taken], self._prompts[taken]


@contextmanager
def in_words(error_prefix: str) -> Iterator[None]:
    """What an adapter complains of, with the slot that it is in."""
    try:
        yield
    except AdapterError as error:
        raise AmdmError(f"{error_prefix}: {error}") from error


def pooled_at_end(hidden: Tensor, tokens: Tensor, end: int) -> Tensor:
    """CLIP's pooler output (texts, width) of its last hidden states (texts, length, width), after the final norm.

    It is the one at the first end token. Not found by the highest number: textual inversions have higher ones.
    """
    places = (tokens == end).int().argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), places]
