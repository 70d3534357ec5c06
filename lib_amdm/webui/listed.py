"""The WebUI's lists of checkpoints and adapters, by the kind of setting that is chosen from one."""

from __future__ import annotations

from ..hosts.protocol import Lists
from ..settings import CheckpointSpec, ListedSpec


def choices(host: Lists, spec: ListedSpec) -> list[str]:
    """List everything a setting can be: its words, and then the titles of the files."""
    return [*spec.words, *(host.checkpoint_titles() if _is_checkpoint(spec) else host.adapter_titles())]


def title(host: Lists, spec: ListedSpec, name: str) -> str | None:
    """Return the present title of the file that a name or an earlier title means, or None."""
    return host.checkpoint_title(name) if _is_checkpoint(spec) else host.adapter_title(name)


def refresh(host: Lists, spec: ListedSpec) -> None:
    """Read the list again."""
    if _is_checkpoint(spec):
        host.refresh_checkpoints()
    else:
        host.refresh_adapters()


def _is_checkpoint(spec: ListedSpec) -> bool:
    return isinstance(spec, CheckpointSpec)
