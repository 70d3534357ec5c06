"""AMDM in one pass of one picture: it replaces the function of the pass's own sampler, and is gone with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import partial
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import AdapterError, AmdmError
from ..hosts.protocol import Host, HostRun, PassOptions, Ran
from ..hosts.webui_types import Processing, Sampler
from ..settings import Settings, SettingsError
from . import adapter_inputs, infotext, plan_line

if TYPE_CHECKING:
    from ..core.arguments import CoRun

HOLDER = "_amdm_holder"


class Sampling(Protocol):
    """A replacement for the sampler function of a pass."""

    def sample(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run instead of `func`, the sampler's own function, on its arguments."""


@dataclass
class MixedSampling:
    """Samples with the co-models of the settings, and writes into the picture's infotext what ran."""

    p: Processing
    settings: Settings
    pool_limit: int
    host_run: HostRun
    co_models: list[CoRun]
    comment: Callable[[str], None]
    """Shows a text with the picture."""
    name: str = "first"
    """The pass's: "first", or "hires" or "detail 1", which add to what an earlier one has written."""
    details: MutableMapping[str, Any] | None = None
    """The entries of a picture's details, if this is one; otherwise the picture's own are written."""

    def sample(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # imported with the first picture: a start does not need it
        from ..comodels.mixing import mixed

        mixing = mixed(func, self.settings, self.co_models, self.host_run.sampled_pass())
        titles, is_drawn = self.host_run.titles(), False
        try:
            self.host_run.start()
            sampled = mixing(*args, **kwargs)
            is_drawn = True
            return sampled
        except AdapterError as error:
            raise AmdmError(f"AMDM: {error}") from error
        except Exception as error:
            worded = self.host_run.worded(error)
            if worded is error:
                raise
            raise worded from error
        finally:
            ran = self.host_run.finish(self.pool_limit)
            has_mixed = ran is not None and ran.steps > self.settings.start
            if ran is not None and (has_mixed or self.settings.main_adapter.used):
                self._write(ran, titles, has_mixed)
            if is_drawn and self.co_models and not has_mixed and not self.host_run.stopped:
                self.comment(f"AMDM: no step was mixed; {self._remedy()}.")

    def _write(self, ran: Ran, titles: Mapping[int, str], has_mixed: bool) -> None:
        settings = self.settings if has_mixed else replace(self.settings, co_models=())
        entries: dict[str, Any] = {**infotext.written(settings, titles)}
        of_picture = self.p.extra_generation_params if self.details is None else self.details
        if has_mixed:
            entries |= infotext.with_run({} if self.name == "first" else of_picture, self.name, ran)
        of_picture.update(entries)

    def _remedy(self) -> str:
        if self.settings.start:
            return f"start is {self.settings.start}, and fewer steps are mixed: lower it"
        return "raise the sampling steps or the denoising strength, or choose another sampler"


@dataclass
class FailedSampling:
    """Raises an error of the hook before the first evaluation, since the WebUI swallows exceptions in a hook."""

    error: Exception

    def sample(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raise self.error


@dataclass
class _Holder:
    """The sampler's own function, and its replacement, or None if AMDM has nothing to do."""

    original: Callable[..., Any]
    wrapped: Callable[..., Any]
    stand_in: Sampling | None = None


def attach(sampler: Sampler, stand_in: Sampling | None) -> None:
    """Run `stand_in` instead of `sampler.func` in the coming pass; None removes AMDM from it.

    img2img keeps one sampler for all its batches and some hosts call the hook twice, so a sampler that has a holder
    gets another stand-in in it and is never wrapped again.
    """
    holder = getattr(sampler, HOLDER, None)
    if holder is None:
        if stand_in is None:
            return
        holder = _Holder(sampler.func, sampler.func)

        @functools.wraps(sampler.func)
        def sample(*args: Any, **kwargs: Any) -> Any:
            if holder.stand_in is None:
                return holder.original(*args, **kwargs)
            return holder.stand_in.sample(holder.original, *args, **kwargs)

        holder.wrapped = sampler.func = sample
        setattr(sampler, HOLDER, holder)
    holder.stand_in = stand_in
    if stand_in is None and sampler.func is holder.wrapped:
        sampler.func = holder.original
        delattr(sampler, HOLDER)


def original(sampler: Sampler) -> Callable[..., Any]:
    """Return the sampler function without AMDM."""
    holder = getattr(sampler, HOLDER, None)
    return holder.original if holder else sampler.func


def prepare(
    host: Host,
    p: Processing,
    read_settings: Callable[[], Settings],
    options: PassOptions,
    pool_limit: int,
    hook: Mapping[str, Any],
    details: MutableMapping[str, Any] | None = None,
) -> Sampling | None:
    """Load the models and encode the texts of the coming pass; None if its sampler shall run unchanged.

    An error is kept for the pass or, with `continues_on_error`, shown with the picture. details: the entries of a
    picture's details, if the pass is one of these, and not of a picture.
    """
    host_run = None
    try:
        settings = read_settings()
        if details is not None and not settings.in_details:
            return None
        said = [*plan_line.idle(settings), *plan_line.unguided(settings, getattr(p, "cfg_scale", 0.0), host)]
        if said:
            host.comment(p, f"AMDM: {' '.join(said)}")
        if settings.mixes and details is None and not _wanted(host, p, settings):
            # the main model's adapter is part of that model, and acts in every pass
            settings = replace(settings, co_models=())
        if not settings.runs:
            return None
        settings = adapter_inputs.used_alone(host, settings)
        host_run = host.run(p, options, hook, original(p.sampler))
        if settings.main_adapter.used:
            host_run.adapt_main(settings.main_adapter)
        co_models = host_run.load_co_models(settings.active) if settings.mixes else []
        comment = partial(host.comment, p)
        name = _name(host, p, details)
        return MixedSampling(p, settings, pool_limit, host_run, co_models, comment, name, details)
    except (SettingsError, AmdmError) as error:
        problem: Exception = error
    except Exception as error:
        problem = error if host_run is None else host_run.worded(error)
        if problem is error:
            what = f"{type(error).__name__}: {error}"
            problem = AmdmError(f"AMDM: preparing the co-models failed ({what}); switch AMDM off.")
        problem.__cause__ = error
    if host_run is not None:
        # a call that the error came through may refer to the model that failed, which would then stay in memory
        clear_frames(problem.__traceback__)
        # the slots before the failed one are loaded, and the user's limit applies to them too
        host_run.finish(pool_limit)
    if not options.continues_on_error:
        return FailedSampling(problem)
    host.comment(p, str(problem))
    return None


def _name(host: Host, p: Processing, details: Mapping[str, Any] | None) -> str:
    if details is not None:
        return f"{infotext.DETAIL}{len(details.get(infotext.PASSES, ())) + 1}"
    return "hires" if host.is_hires_pass(p) else "first"


def _wanted(host: Host, p: Processing, settings: Settings) -> bool:
    """Return True if the settings include this pass of a picture; add a comment if their pass never comes."""
    wanted = settings.which_pass
    if wanted == "hires" and not getattr(p, "enable_hr", False):
        host.comment(p, 'AMDM: "pass" is set to hires, but hires fix is off, so no co-model was run.')
    return wanted in ("both", "all", "hires" if host.is_hires_pass(p) else "first")
