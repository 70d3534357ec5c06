"""The checkpoints that come with the project: where they are, and the dialect each was taught."""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")
DIALECT_OF = {"shapes": "shapes", "colours": "colours", "backgrounds": "backgrounds", "all": "full"}
"""The dialect of captions (see `captions.caption`) that each checkpoint knows."""
FLOW_OF = {"shapes-flow": "shapes", "colours-flow": "colours"}
"""The flow models that are trained from them; they are not bundled."""
STYLED_OF = {"all-pierced": "all"}
"""The checkpoint of the other style, and the bundled one it is trained from; it is not bundled itself."""
WIDE_OF = {"colours16": "colours", "colours16-flow": "colours"}
"""The checkpoints with another latent space, of 16 channels, and the one they are trained from; the flow model is not
bundled."""
MADE_OF = {**FLOW_OF, **STYLED_OF, **WIDE_OF}
CLIP_FOLDER = "clip"
"""The text encoder's folder, next to the bundled yamls, which name it."""
JUDGE = Path(__file__).with_name("judge.safetensors")
"""The judge's weights. They are outside the folder of the checkpoints, which hosts list."""
STYLE_JUDGE = Path(__file__).with_name("judges") / "styles.safetensors"
"""The weights of the judge that knows both styles."""
ADAPTERS = Path(__file__).with_name("adapters")
LAYOUT_ADAPTER, IMAGE_ADAPTER = ADAPTERS / "layout.safetensors", ADAPTERS / "image.safetensors"
"""A GLIGEN and an IP-Adapter for `shapes`."""
IMAGE_ENCODER = ADAPTERS / "image_encoder.safetensors"
"""The CLIP vision encoder of the IP-Adapter."""
