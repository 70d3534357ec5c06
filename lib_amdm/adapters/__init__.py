"""The adapters that can be attached to a UNet: IP-Adapter, GLIGEN, InteractDiffusion and MIGC, as torch forward hooks.

`kinds.read_adapter` reads a file and `kinds.adapter_of` makes the torch module of it. The module's `prepare` takes the
inputs of one generation (picture features, or a layout with its phrases). `attach.attached` hooks the prepared adapters
on a UNet for as long as its context lasts. Everything here imports torch and safetensors alone.
"""
