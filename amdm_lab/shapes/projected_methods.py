"""The benchmark's rows with projected guidance; they are not in the table."""

from __future__ import annotations

from functools import partial

from .methods import DEFAULTS, EVERYTHING, PAIR, Method, aggregated, alone, average, on

PROJECTED_METHODS: dict[str, Method] = {
    "all-projected": Method(
        f"`{EVERYTHING}`", "projected", on(partial(alone, name=EVERYTHING), projected=(EVERYTHING,))
    ),
    "average-projected": Method("two predictions averaged", "both projected", on(average, projected=PAIR)),
    "amdm-co-projected": Method(
        "AMDM, defaults",
        "the co-model projected",
        on(partial(aggregated, settings=DEFAULTS), projected=("colours",)),
    ),
    "amdm-projected": Method(
        "AMDM, defaults", "both projected", on(partial(aggregated, settings=DEFAULTS), projected=PAIR)
    ),
}
"""Rows that are not in the table, with projected guidance."""
