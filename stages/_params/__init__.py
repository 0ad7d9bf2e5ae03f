"""What a person may change: one frozen, typed class per section of params.yaml.

`load_params(path)` is the only reader of params.yaml. It reports every mistake of a file at once,
with the nearest known name, before any work starts. Fields are documented where they stand, a file
per section; the same text reaches editors through `docs/params.schema.json` (`make schema`).
"""

from stages._params.base import Section
from stages._params.distill import DifferentialPrivacy, Recipe
from stages._params.evaluation import Evaluate
from stages._params.models import Adapter, DecoderShape, Generation, Pretrained, Training
from stages._params.params import Params, json_schema, params_hash
from stages._params.prepare import Prepare, SplitShares
from stages._params.reading import check_params, load_params, read_yaml
from stages._params.teacher import Prompting

__all__ = [
    "Adapter",
    "DecoderShape",
    "DifferentialPrivacy",
    "Evaluate",
    "Generation",
    "Params",
    "Prepare",
    "Pretrained",
    "Prompting",
    "Recipe",
    "Section",
    "SplitShares",
    "Training",
    "check_params",
    "json_schema",
    "load_params",
    "params_hash",
    "read_yaml",
]
