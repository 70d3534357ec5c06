"""AMDM in the WebUI: an AlwaysVisible script. Its hooks translate, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules import scripts

from lib_amdm.hosts import detect
from lib_amdm.hosts.protocol import Host
from lib_amdm.hosts.webui_types import Processed, Processing
from lib_amdm.settings import Settings
from lib_amdm.webui import api, compare, details, infotext, options, panel, refusal, sampler_hook, xyz

HOST: Host | None = None
REASON = ""  # why there is none
try:
    HOST = detect.host()
except detect.UnknownHostError as unknown:
    REASON = str(unknown)
DETAILS = details.Details()
PANELS: dict[str, panel.Panel] = {}  # of the page that is being built, by their tabs


class Script(scripts.Script):
    """The accordion in txt2img and img2img, and the hook before every sampling pass."""

    def title(self) -> str:
        return "AMDM"

    def show(self, is_img2img: bool) -> object:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        if HOST is None:
            return refusal.build(REASON, self.elem_id)
        if not panel.is_page():
            return panel.defaults(options.slots(HOST))
        tab = "img2img" if is_img2img else "txt2img"
        built = panel.build_panel(HOST, options.slots(HOST), tab, self.elem_id, sides=getattr(self, "sides", {}))
        self.infotext_fields = built.infotext_fields
        self.paste_field_names = built.paste_field_names
        PANELS[tab] = built
        return built.components

    def after_component(self, component: Any, **kwargs: Any) -> None:
        tab = "img2img" if self.is_img2img else "txt2img"
        for side in panel.FOLLOWED:
            if kwargs.get("elem_id") == f"{tab}_{side}":
                # the WebUI makes these before it asks for this panel
                self.sides = {**getattr(self, "sides", {}), side: component}

    def before_process(self, p: Processing, *args: Any) -> None:
        if HOST is not None and not HOST.is_inner(p) and not _is_off(p, args):
            details.join(HOST, p, lambda: _settings(p, args), __file__)

    def process(self, p: Processing, *args: Any) -> None:
        if HOST is None:
            refusal.refuse(REASON, p, args)
            return
        if HOST.is_inner(p):
            DETAILS.hand_on(p)
        else:
            DETAILS.begin(p)
        # a plot's cells and a folder's pictures share these entries, and must not see each other's
        p.extra_generation_params = infotext.without(p.extra_generation_params)
        if not _is_off(p, args):
            compare.plan(HOST, p, lambda: _settings(p, args))

    def process_before_every_sampling(self, p: Processing, *args: Any, **hook: Any) -> None:
        if HOST is None:
            return
        chosen, is_detail = None, HOST.is_inner(p)
        if is_detail:
            DETAILS.follow(HOST, p)
        else:
            DETAILS.forget(p)
        if not _is_off(p, args):
            # an error would end the detailer without a word
            of_pass = options.of_pass(HOST)._replace(**({"continues_on_error": True} if is_detail else {}))
            entries = DETAILS.entries if is_detail else None
            limit = options.pool_limit(HOST)
            chosen = sampler_hook.prepare(HOST, p, lambda: _settings(p, args), of_pass, limit, hook, entries)
        sampler_hook.attach(p.sampler, chosen)

    def postprocess_image_after_composite(self, p: Processing, pp: Any, *args: Any) -> None:
        if HOST is not None and not HOST.is_inner(p):
            DETAILS.write(HOST, p)

    def postprocess(self, p: Processing, processed: Processed, *args: Any) -> None:
        if HOST is None:
            return
        if not HOST.is_inner(p) and not _is_off(p, args):
            details.say_if_none(p, processed, lambda: _settings(p, args))
        compare.finish(HOST, p, processed)


def _is_off(p: Processing, args: Sequence[Any]) -> bool:
    # some WebUIs give no arguments while they start
    chosen_elsewhere = getattr(p, xyz.HELD_IN, None) or hasattr(p, compare.SETTINGS)
    return not chosen_elsewhere and (not args or args[0] is False)


def _settings(p: Processing, args: Sequence[Any]) -> Settings:
    compared = getattr(p, compare.SETTINGS, None)
    return compared if compared is not None else xyz.overlay(api.read_args(args), getattr(p, xyz.HELD_IN, {}))


def _register(host: Host) -> None:
    options.register(host)
    xyz.register(host)
    api.register(host)
    host.on_main_checkpoint(lambda control: panel.follow_main(PANELS.values(), control))
    host.on("infotext_pasted", lambda text, params: infotext.expand(params, options.slots(host), host))


if HOST is not None:
    _register(HOST)
