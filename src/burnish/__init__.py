"""burnish: post-training for language models, from a raw model to an assistant, and the evidence of what changed."""

__version__ = "0.1.0"
