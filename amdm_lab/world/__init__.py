"""The drawn world: scenes, their captions, and the inputs of adapters for them."""
