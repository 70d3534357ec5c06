"""The node pack for ComfyUI, which imports this file if the folder is in `custom_nodes/`. WebUIs do not read it."""

import sys

# other tools import it too, such as pytest, which finds it at the top of the repository
if "comfy_api" in sys.modules:
    from .lib_amdm.hosts.comfyui.nodes import comfy_entrypoint as comfy_entrypoint
