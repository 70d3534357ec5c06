"""InteractDiffusion: interactions of things in their boxes, by GLIGEN's fusers with triplets (Hoe et al., 2024)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import AdapterError
from ..layout import Box, Layout
from .base import Room
from .gligen import MLP, Grounding, PreparedGrounding
from .inputs import Inputs
from .weights import box_embedding, silu_mlp

SUBJECT, OBJECT, ACTION = range(3)
"""Rows of the learnt embedding of roles."""


class InteractDiffusion(Grounding):
    """InteractDiffusion 1.0, 1.1 and 1.2, which differ only in their weights; the version is in the file's name."""

    kind = "interactdiffusion"
    title = "InteractDiffusion"
    folders = "interact"
    has_actions = True
    position_net_tensors = (
        *(f"{net}.{part}" for net in ("linears", "linear_action") for part in MLP),
        "interaction_embedding.emb.weight",
        "position_embedding.emb.weight",
        "null_positive_feature",
        "null_action_feature",
        "null_position_feature",
    )

    @classmethod
    def variant_of(cls, name: str) -> str:
        version = re.search(r"v[-_.]?1(?:[-_.]([012]))?(?![0-9])", name, re.IGNORECASE)
        return f"1.{version[1] or 0}" if version else ""

    @classmethod
    def room(cls, variant: str) -> Room:
        return Room(actions=30)

    @property
    def slots(self) -> int:
        """The number of interactions that there can be: 30 in the published models."""
        return self["position_net.interaction_embedding.emb"].weight.shape[0]

    def prepare(self, inputs: Inputs) -> PreparedGrounding:
        """Return the adapter with the tokens of the layouts' interactions.

        AdapterError if a layout has no interaction, more than the adapter has slots for, or a phrase that takes part
        in none, which the adapter cannot draw.
        """
        for layout in inputs.layouts:
            self._check(layout)
        return super().prepare(inputs)

    def texts(self, layout: Layout) -> Sequence[str]:
        """Return the regions' phrases and the actions."""
        return [*layout.phrases, *(interaction.action for interaction in layout.interactions)]

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
        taking_part = {
            number for interaction in layout.interactions for number in (interaction.subject, interaction.object)
        }
        for number, region in enumerate(layout.regions):
            if number not in taking_part:
                raise AdapterError(
                    f'"{self.name}" draws interactions alone and "{region.phrase}" (phrase {number} of the layout, '
                    "counted from 0) takes part in none; give it one or remove it."
                )

    def tokens(self, layout: Layout, pooled: Mapping[str, Tensor]) -> Tensor:
        """Return grounding tokens (3 slots, width): all subjects, then all actions, then all objects.

        Every slot has its own learnt embedding, so empty ones are tokens too.
        """
        net = self["position_net"]
        regions = layout.regions
        pairs = [(regions[interaction.subject], regions[interaction.object]) for interaction in layout.interactions]
        null_thing, null_action = (net.get_parameter(f"null_{part}_feature") for part in ("positive", "action"))
        subjects = self._roles("linears", null_thing, [a.phrase for a, _ in pairs], [a.box for a, _ in pairs], pooled)
        objects = self._roles("linears", null_thing, [b.phrase for _, b in pairs], [b.box for _, b in pairs], pooled)
        actions = self._roles(
            "linear_action",
            null_action,
            [interaction.action for interaction in layout.interactions],
            [between(a.box, b.box) for a, b in pairs],
            pooled,
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
        self, mlp: str, null: Tensor, texts: Sequence[str], boxes: Sequence[Box], pooled: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the tokens (slots, width) of one role, the empty slots' last. null: the empty text's, (width,)."""
        net = self["position_net"]
        words = null.expand(self.slots, -1)
        places = net.get_parameter("null_position_feature").expand(self.slots, -1)
        if texts:
            count = len(texts)
            words = torch.cat([self.embeddings(pooled, texts), words[count:]])
            embedded = box_embedding(torch.tensor(boxes, device=self.device)).to(self.dtype)
            places = torch.cat([embedded, places[count:]])
        return silu_mlp(net[mlp], torch.cat([words, places], dim=-1))


def between(a: Box, b: Box) -> Box:
    """Return the box of an action between two things: the middle two of the four x values, and of the four y values."""
    xs, ys = sorted((a[0], a[2], b[0], b[2])), sorted((a[1], a[3], b[1], b[3]))
    return xs[1], ys[1], xs[2], ys[2]
