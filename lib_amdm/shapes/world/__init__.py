"""The drawn world: scenes, their captions, and what adapters are told of them."""
