"""The co-models: from settings to a sampler, adapters at work, and what is kept between pictures."""
