"""The search for AMDM's best settings: grids of two settings each, the others as `methods.BEST` has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..table import markdown
from .measuring import Bench
from .methods import BEST, BEST_THREE
from .rows import MAIN, Method, amdm_row, mixing
from .scores import QUANTITIES

STEPS = (2, 3, 5, 8, 11, 14, 17, 20)
GAMMAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ETAS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
EVALUATIONS = (1, 2, 3, 4, 5, 7, 0)
PULLS = ("relative", "norm", "own")
NOISES = ("shared", "independent")
MAINS = ("shapes", "colours")


@dataclass(frozen=True)
class Sweep:
    """A grid over two settings: their names and values."""

    title: str
    rows: tuple[str, tuple[Any, ...]]
    columns: tuple[str, tuple[Any, ...]]
    method: Callable[[Any, Any], Method]
    """Makes the method of a row's and a column's value."""
    wanted: str = "both"
    """The quantity that the settings are to be best at."""

    def cells(self) -> list[tuple[int, int, Method]]:
        values = enumerate(self.rows[1])
        return [(i, j, self.method(row, column)) for i, row in values for j, column in enumerate(self.columns[1])]


def two_models(main: str = MAIN, **changed: Any) -> Method:
    """Make a row of AMDM with the two models and BEST's settings but for those `changed`."""
    slot = BEST.co_models[0]
    best: dict[str, Any] = {"steps": BEST.steps, "evaluations": BEST.evaluations, "eta": BEST.eta}
    best |= {"gamma": slot.gamma, "co_eta": slot.eta, "noise": slot.noise}
    other = next(name for name in MAINS if name != main)
    return amdm_row("AMDM", mixing(other, **{**best, **changed}), main)


def three_models(steps: int, gamma: float) -> Method:
    first, last = BEST_THREE.co_models
    slots = (first, replace(last, gamma=gamma))
    return amdm_row("AMDM, three models", replace(BEST_THREE, steps=steps, co_models=slots))


_K, _GAMMA = ("K", STEPS), ("gamma", GAMMAS)
GRIDS: dict[str, Sweep] = {
    "gamma-k": Sweep("K and gamma", _K, _GAMMA, lambda k, gamma: two_models(steps=k, gamma=gamma)),
    "evaluations": Sweep("K and E", _K, ("E", EVALUATIONS), lambda k, count: two_models(steps=k, evaluations=count)),
    "pull": Sweep(
        "correction and eta of both models",
        ("correction", PULLS),
        ("eta", ETAS),
        lambda rule, eta: two_models(correction=rule, eta=eta, co_eta=eta),
    ),
    "gamma-k-colours": Sweep(
        "K and gamma, colours as the main model",
        _K,
        _GAMMA,
        lambda k, gamma: two_models("colours", steps=k, gamma=gamma),
    ),
    "eta": Sweep(
        "eta of both models",
        ("main eta", ETAS),
        ("co-model's eta", ETAS),
        lambda eta, co_eta: two_models(eta=eta, co_eta=co_eta),
    ),
    "noise-main": Sweep(
        "noise and main model",
        ("noise", NOISES),
        ("main model", MAINS),
        lambda noise, main: two_models(main, noise=noise),
    ),
    "three": Sweep("K and the third model's gamma", _K, ("third gamma", GAMMAS[:5]), three_models, "all three"),
}
"""The grids by their names on the command line."""


def sweep(bench: Bench, names: list[str], say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure the grids; for each its axes and, by quantity, the shares as rows of columns."""
    grids = {}
    for name in names:
        grid = GRIDS[name]
        cells = {quantity: [[0.0] * len(grid.columns[1]) for _ in grid.rows[1]] for quantity in QUANTITIES}
        best = (-1.0, "")
        for i, j, method in grid.cells():
            shares = bench.run(_file_name(method.detail), method).shares
            for quantity, share in shares.items():
                cells[quantity][i][j] = round(share.value, 4)
            best = max(best, (shares[grid.wanted].value, f"{shares[grid.wanted]} with {method.detail}"))
        grids[name] = {"title": grid.title, "rows": grid.rows, "columns": grid.columns, "wanted": grid.wanted, **cells}
        say(f"{grid.title}: most of {grid.wanted} right, in %: {best[1]}")
    return grids


def _file_name(detail: str) -> str:
    """Turn a method's detail into a file's name; cells that two grids share are measured once."""
    return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in detail)


def tables(grids: dict[str, Any], pictures: int) -> str:
    """Write the grids in Markdown."""
    parts = []
    for grid in grids.values():
        (row_name, rows), (column_name, columns) = grid["rows"], grid["columns"]
        head = [f"{row_name} \\ {column_name}", *map(str, columns)]
        lines = [[str(row), *(f"{100 * cell:.0f}" for cell in cells)] for row, cells in zip(rows, grid[grid["wanted"]])]
        parts.append(
            f"{grid['title']}: {grid['wanted']} right, in %, {pictures} pictures a cell\n\n{markdown(head, lines)}"
        )
    return "\n\n".join(parts) + "\n"
