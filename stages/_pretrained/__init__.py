"""Teachers and students that begin as a model in Hugging Face format.

`resolve` finds the model and how to speak to it, `load` makes it trainable, `merged` makes one
plain model of it again. Only safetensors, tokenizer and configuration are fetched and read: no
pickle, and no code that comes with a model.

Imports torch and transformers; stages import it when they run.
"""

from stages._pretrained.base import Base, resolve, surround
from stages._pretrained.tuning import load, merged

__all__ = ["Base", "load", "merged", "resolve", "surround"]
