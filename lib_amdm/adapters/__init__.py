"""What can be attached to a UNet: IP-Adapter, GLIGEN, InteractDiffusion and MIGC, as torch forward hooks.

The way of an adapter: `files.read_adapter` reads a file, `make.adapter_of` makes the torch module of it, its `told`
prepares what one generation tells it (picture features, or a layout with its phrases), and `attach.attached` hooks the
prepared adapters on a UNet for as long as its context lasts. Everything here imports torch and safetensors alone.
"""
