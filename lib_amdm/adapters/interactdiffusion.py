"""InteractDiffusion: who does what to whom, and where, by GLIGEN's fusers told triplets (Hoe et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import AdapterError
from ..layout import Box, Layout
from .files import AdapterFile
from .gligen import Grounding, ToldGrounding
from .weights import box_embedding, silu_mlp

SUBJECT, OBJECT, ACTION = range(3)
"""Rows of the learnt embedding of roles."""


class InteractDiffusion(Grounding):
    """InteractDiffusion 1.0, 1.1 and 1.2, which differ in their weights alone."""

    kind = "interactdiffusion"

    def __init__(self, file: AdapterFile) -> None:
        super().__init__(file)
        self.version = file.variant

    @property
    def slots(self) -> int:
        """How many interactions there can be: 30 in the published models."""
        return self["position_net.interaction_embedding.emb"].weight.shape[0]

    def phrases(self, layout: Layout) -> list[str]:
        """The texts whose pooled embeddings `told` needs: the regions' phrases and the actions."""
        return list(dict.fromkeys([*layout.phrases, *(each.action for each in layout.interactions)]))

    def told(
        self,
        layouts: Sequence[Layout],
        phrases: Mapping[str, Tensor],
        strength: float = 1.0,
        until: float = 1.0,
    ) -> ToldGrounding:
        """The adapter told interactions.

        layouts: one for all images of the batch, or one for each. phrases: CLIP's pooled embedding (width,) of each
        text of `phrases(layout)`. AdapterError where there is no interaction, or more than the adapter has slots for,
        or a phrase that takes part in none: it has no way to be said.
        """
        for layout in layouts:
            self._check(layout)
        return self._grounded(layouts, phrases, strength, until)

    def _check(self, layout: Layout) -> None:
        count = len(layout.interactions)
        if not count:
            raise AdapterError(
                f'"{self.name}" needs a row with subject, action and object in the layout, '
                'such as {"subject": 0, "action": "kicking", "object": 1}.'
            )
        if count > self.slots:
            raise AdapterError(
                f'"{self.name}" takes {self.slots} interactions and the layout has {count}; remove some.'
            )
        taking_part = {number for each in layout.interactions for number in (each.subject, each.object)}
        for number, region in enumerate(layout.regions):
            if number not in taking_part:
                raise AdapterError(
                    f'"{self.name}" draws interactions alone and "{region.phrase}" (phrase {number} of the layout, '
                    "counted from 0) takes part in none; give it one or remove it."
                )

    def tokens(self, layout: Layout, phrases: Mapping[str, Tensor]) -> Tensor:
        """Grounding tokens (3 slots, width): all subjects, then all actions, then all objects.

        Every slot has a learnt embedding of its own, so empty ones are tokens too.
        """
        net = self["position_net"]
        regions = layout.regions
        pairs = [(regions[each.subject], regions[each.object]) for each in layout.interactions]
        subjects = self._roles(
            "linears", net.null_positive_feature, [a.phrase for a, _ in pairs], [a.box for a, _ in pairs], phrases
        )
        objects = self._roles(
            "linears", net.null_positive_feature, [b.phrase for _, b in pairs], [b.box for _, b in pairs], phrases
        )
        actions = self._roles(
            "linear_action",
            net.null_action_feature,
            [each.action for each in layout.interactions],
            [between(a.box, b.box) for a, b in pairs],
            phrases,
        )
        slots, roles = net["interaction_embedding.emb"].weight, net["position_embedding.emb"].weight
        return torch.cat(
            [
                subjects + slots + roles[SUBJECT],
                actions + slots + roles[ACTION],
                objects + slots + roles[OBJECT],
            ]
        )

    def _roles(
        self, mlp: str, null: Tensor, words: Sequence[str], boxes: Sequence[Box], phrases: Mapping[str, Tensor]
    ) -> Tensor:
        """The tokens (slots, width) of one role, the empty slots' last."""
        net = self["position_net"]
        told = null.expand(self.slots, -1)
        places = net.null_position_feature.expand(self.slots, -1)
        if words:
            count = len(words)
            told = torch.cat([self._phrases(phrases, words), told[count:]])
            embedded = box_embedding(torch.tensor(boxes, device=self.device)).to(self.dtype)
            places = torch.cat([embedded, places[count:]])
        return silu_mlp(net[mlp], torch.cat([told, places], dim=-1))


def between(a: Box, b: Box) -> Box:
    """The box of an action between two things: the middle two of the four x values, and of the four y values."""
    xs, ys = sorted((a[0], a[2], b[0], b[2])), sorted((a[1], a[3], b[1], b[3]))
    return xs[1], ys[1], xs[2], ys[2]
