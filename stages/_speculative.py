"""Put a teacher and its student into one folder: a candidate of the `speculative` engine."""

import shutil
from dataclasses import replace
from pathlib import Path

from serving.contract import read_contract, write_contract
from serving.errors import StillhouseError
from stages import _io

DRAFTED = 4  # tokens; Leviathan et al. 2023 (arXiv:2211.17192) find 3 to 5 best for many models


def assemble(target: Path, draft: Path, folder: Path, drafted: int = DRAFTED) -> str:
    """Copy both model folders to `folder`/target and /draft; returns the new folder's digest.

    Decoding, limits and slots are the target's: it is the target that answers.

    Raises:
        StillhouseError: one of them is damaged, of another engine, or they share no tokens.
    """
    from serving.speculative_engine import SETTINGS_NAME, check_same_tokens

    contracts = {source: read_contract(source) for source in (target, draft)}
    for source, contract in contracts.items():
        if contract.engine != "transformers":
            raise StillhouseError(
                f"{source} has engine {contract.engine}; both models of speculative decoding need "
                f"transformers. Choose another one."
            )
    check_same_tokens(target, draft)
    for name, source in (("target", target), ("draft", draft)):
        shutil.copytree(source, folder / name)
    _io.write_json(folder / SETTINGS_NAME, {"drafted": drafted})
    made = replace(contracts[target], engine="speculative", quantization={"scheme": "speculative"})
    return write_contract(folder, made)
