"""The inputs of an adapter for a batch of pictures that have different layouts or reference pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lib_amdm.adapters.inputs import Encoder, Features
from lib_amdm.comodels.adapter_use import SlotInputs
from lib_amdm.layout import Layout


class BatchInputs:
    """A batch's `adapters.inputs.Inputs`, made of each picture's, which differ in layouts and pictures alone."""

    def __init__(self, of_pictures: Sequence[SlotInputs]) -> None:
        self.of_pictures = of_pictures
        first = of_pictures[0]
        self.strength, self.until, self.seeds = first.strength, first.until, first.seeds

    @property
    def layouts(self) -> Sequence[Layout]:
        return [layout for inputs in self.of_pictures for layout in inputs.layouts]

    def pooled(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        return self.of_pictures[0].pooled(texts)

    def contexts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        return self.of_pictures[0].contexts(texts)

    def features(self, encoder: Encoder) -> Features:
        features = [inputs.features(encoder) for inputs in self.of_pictures]
        return Features(torch.cat([of_picture.pictures for of_picture in features]), features[0].blank)
