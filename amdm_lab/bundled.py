"""The checkpoints that come with the project: where they are, and the dialect each was taught."""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")
DIALECT_OF = {"shapes": "shapes", "colours": "colours", "backgrounds": "backgrounds", "all": "full"}
"""The dialect of captions (see `captions.caption`) that each checkpoint knows."""
FLOW_OF = {"shapes-flow": "shapes", "colours-flow": "colours"}
"""The flow models that are made of them; they are not bundled."""
STYLED_OF = {"all-pierced": "all"}
"""The checkpoint of the other style, and the one that it is made of; it is not bundled."""
MADE_OF = {**FLOW_OF, **STYLED_OF}
CLIP_FOLDER = "clip"
"""The text encoder's folder, as the bundled yamls name it; it lies beside them."""
JUDGE = Path(__file__).with_name("judge.safetensors")
"""The judge's weights; it is no checkpoint, and lies outside the folder whose checkpoints are listed."""
STYLE_JUDGE = Path(__file__).with_name("judges") / "styles.safetensors"
"""The weights of the judge that knows both styles."""
ADAPTERS = Path(__file__).with_name("adapters")
LAYOUT_ADAPTER, IMAGE_ADAPTER = ADAPTERS / "layout.safetensors", ADAPTERS / "image.safetensors"
"""A GLIGEN and an IP-Adapter for `shapes`."""
IMAGE_ENCODER = ADAPTERS / "image_encoder.safetensors"
"""The CLIP vision encoder of the IP-Adapter."""
