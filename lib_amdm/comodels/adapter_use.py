"""Adapters at work on a model: files kept in memory, inputs made on demand, hooks for one evaluation.

A host provides the text encoder (`Phrases`) and the rows of the main model's batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from ..adapters.attach import attached, blocks_of
from ..adapters.base import Adapter, AdapterInfo, Places, Prepared, Rows
from ..adapters.inputs import Encoder, Features
from ..adapters.kinds import adapter_of, describe, read_adapter
from ..core.accelerator import same_place
from ..errors import AdapterError, AmdmError
from ..families import Family
from ..files.state import ByState
from ..layout import Box, Layout
from ..settings import AdapterSettings
from .cache import InMemory, Loaded, Pool
from .file_list import FileList
from .image_features import ImageFeatures


class Phrases(Protocol):
    """A model's text encoder for a layout's phrases."""

    def pooled(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return CLIP's pooler output (width,) of each text: after the final norm, at the first end token."""

    def contexts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return each text encoded as a prompt for the UNet, (77, width)."""


class Place(NamedTuple):
    """The model that an adapter is put on.

    phrases: None for a model whose family has no adapters with phrases.
    seeds: those of the batch's images.
    error_prefix: the beginning of an error's text, "AMDM co-model 2".
    panel_label: the name of the slot's controls, "co-model 2".
    """

    unet: nn.Module
    family: Family
    phrases: Phrases | None
    seeds: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    error_prefix: str
    panel_label: str
    make_room: Callable[[int], None] = lambda size: None
    """Asks the host to free this many bytes on the device before they are used."""
    image_dtype: torch.dtype = torch.float32
    """The precision that reference pictures are encoded in."""


class Adapters:
    """A host's adapter files: the loaded ones, and the features of pictures. It lives as long as the host."""

    def __init__(self, files: FileList, encoders: FileList) -> None:
        self.files, self.images = files, ImageFeatures(encoders)
        self.pool = Pool()
        self._infos = ByState(_info)

    def prepare(self, settings: AdapterSettings, place: Place) -> AtWork:
        """Return the adapter that `settings` name, ready to work on the place's UNet.

        AmdmError, with the place's prefix, if a file or an input is missing or does not fit.
        """
        with as_amdm_error(place.error_prefix):
            adapter = self.adapter(settings.adapter, place)
            return AtWork(adapter.prepare(SlotInputs(adapter.name, settings, place, self.images)))

    def adapter(self, name: str, place: Place) -> Adapter:
        """Return the adapter of this name in its list, on the place's device; an error if it does not fit there."""
        adapter = self._load(name, place)
        _refuse_wrong_family(adapter, place)
        return adapter

    def info(self, name: str) -> AdapterInfo | None:
        """Return the description of the file of this name; None if it is not in the list or cannot be used."""
        path = self.files.path(name)
        return self._infos.of(path) if path else None

    def refresh(self) -> None:
        self.files.refresh()
        self.images.refresh()

    def trim(self, limit: int, used: int) -> int:
        """Keep `limit`, or as many as the last picture used if these are more; none at all for 0.

        Returns the number dropped.
        """
        return self.pool.trim(max(limit, used) if limit else 0)

    def listing(self) -> list[InMemory]:
        return self.pool.listing("adapter")

    def unload(self) -> list[InMemory]:
        self.images.clear()
        return self.pool.unload("adapter")

    def _load(self, name: str, place: Place) -> Adapter:
        path = self.files.path(name)
        if path is None or not path.is_file():
            # it may have been added or moved after the list was made
            self.files.refresh()
            path = self.files.path(name)
        if path is None:
            raise AmdmError(f'{place.error_prefix}: "{name}" is not in the list of adapters; choose one that is.')

        def read() -> Loaded:
            adapter = adapter_of(read_adapter(path))
            dtype = torch.float32 if adapter.needs_float32 else place.dtype
            return Loaded(self.files.title(name) or name, adapter.to(dtype=dtype).eval())

        adapter = cast(Adapter, self.pool.get(str(path), (place.dtype, str(place.device)), read).model)
        if not all(same_place(tensor.device, place.device) for tensor in (*adapter.parameters(), *adapter.buffers())):
            place.make_room(adapter.size_in_bytes())
        return adapter.to(place.device, non_blocking=True)


def _info(path: Path) -> AdapterInfo | None:
    try:
        return describe(path)
    except AdapterError:
        return None


def within(settings: AdapterSettings, crop: Box) -> AdapterSettings:
    """Return the settings of an adapter for a crop of the picture; none if its layout has nothing there."""
    if not settings.layout:
        return settings
    layout = Layout.read(settings.layout).within(crop)
    return replace(settings, layout=json.dumps(layout.rows())) if layout else AdapterSettings()


class SlotInputs:
    """A slot's `adapters.inputs.Inputs`: each is read, encoded or refused when an adapter needs it.

    adapter: the file's name, for error texts.
    """

    def __init__(self, adapter: str, settings: AdapterSettings, place: Place, images: ImageFeatures) -> None:
        self.adapter, self.settings, self.place, self.images = adapter, settings, place, images
        self.strength, self.until, self.seeds = settings.strength, settings.until, place.seeds

    @cached_property
    def layouts(self) -> Sequence[Layout]:
        """The slot's one layout; AmdmError if it is empty."""
        layout = Layout.read(self.settings.layout)
        if not layout:
            raise AmdmError(
                f'{self.place.error_prefix}: "{self.adapter}" needs a layout; write phrases with their boxes into the '
                f"layout of {self.place.panel_label}."
            )
        return [layout]

    def pooled(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        return self._phrases.pooled(texts)

    def contexts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        return self._phrases.contexts(texts)

    def features(self, encoder: Encoder) -> Features:
        """Return the reference picture's features; AmdmError if there is no picture, or no such encoder."""
        if not self.settings.image:
            raise AmdmError(
                f'{self.place.error_prefix}: "{self.adapter}" needs a reference picture; choose one as the image of '
                f"{self.place.panel_label}."
            )
        place = self.place
        return self.images.of(
            self.settings.image,
            encoder,
            place.device,
            place.error_prefix,
            self.adapter,
            dtype=place.image_dtype,
            make_room=place.make_room,
        )

    @property
    def _phrases(self) -> Phrases:
        if self.place.phrases is None:
            raise AdapterError(
                f'"{self.adapter}" needs phrases, which cannot be encoded for {self.place.family}; choose another.'
            )
        return self.place.phrases


def _refuse_wrong_family(adapter: Adapter, place: Place) -> None:
    if adapter.family != place.family.name:
        raise AmdmError(
            f'{place.error_prefix}: "{adapter.name}" is for {adapter.family}, but the checkpoint it is put on is '
            f"{place.family}; choose an adapter made for it."
        )
    adapter.layers(blocks_of(place.unet))


class AtWork:
    """An adapter on one model in one pass. It acts only in announced UNet calls."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.rows: Rows | None = None
        self.places: Places = {}

    @property
    def name(self) -> str:
        return self.prepared.adapter.name

    @property
    def size(self) -> int:
        """In bytes."""
        return self.prepared.adapter.size_in_bytes()

    def announce(self, images: Iterable[int], prompts: Iterable[bool], progress: float) -> None:
        """Set the rows of the next call: see `adapters.base.Rows`."""
        self.rows = Rows(tuple(images), tuple(prompts), progress)

    def end_call(self) -> None:
        self.rows = None

    @contextmanager
    def on(self, unet: nn.Module) -> Iterator[None]:
        """Attach the adapter to the UNet while the context lasts."""
        with attached(unet, [self.prepared], lambda: self.rows, self.places):
            try:
                yield
            finally:
                self.end_call()

    def park(self) -> None:
        """Make room on the device."""
        self.prepared.adapter.to("cpu")


class MainRows:
    """The rows of the main model's UNet calls, for a host that evaluates one batch in one or several calls.

    The whole batch is a row for each part of each image's prompt, in order, and then one for each image's negative
    prompt; calls take it in parts, or leave out the negatives at the end.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        """parts: how many parts each image's prompt has."""
        owners = [image for image, count in enumerate(parts) for _ in range(count)]
        self._images = [*owners, *range(len(parts))]
        self._prompts = [True] * len(owners) + [False] * len(parts)
        self._taken = 0

    def take(self, count: int) -> tuple[list[int], list[bool]]:
        """Return the next `count` rows: their images, and True for each that has the prompt.

        AdapterError for more rows than there are.
        """
        taken = slice(self._taken, self._taken + count)
        self._taken += count
        if self._taken > len(self._images):
            raise AdapterError(
                f"The main model was called with {self._taken} rows, but {len(self._images)} were announced; another "
                "extension changes the batch: switch it off, or the main adapter."
            )
        return self._images[taken], self._prompts[taken]


@contextmanager
def as_amdm_error(error_prefix: str) -> Iterator[None]:
    """Turn an AdapterError into an AmdmError that names the slot."""
    try:
        yield
    except AdapterError as error:
        raise AmdmError(f"{error_prefix}: {error}") from error


def pooled_at_end(hidden: Tensor, tokens: Tensor, end: int) -> Tensor:
    """Return CLIP's pooler output (texts, width): its last hidden states at each text's first end token.

    hidden: (texts, length, width), after the final norm. tokens: (texts, length). The `end` token is not found by the
    highest number, because textual inversions have higher ones.
    """
    places = (tokens == end).int().argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), places]
