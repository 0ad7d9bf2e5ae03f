"""The model registry: every candidate a version of one registered model, roles as aliases.

The registered model has the experiment's name. A version is found by its model's digest, so to
register the same model twice changes nothing; its bytes stay in DVC, MLflow gets the contract and
the lineage. Everything written here can be written again from releases/.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, NamedTuple

from serving.contract import CONTRACT_NAME, digest
from serving.errors import StillhouseError
from stages._recorder import one_line
from stages._tracking.store import Store, prepare_store, shown_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

DIGEST = "model_sha256"
Facts = Mapping[str, str]


class Registry(NamedTuple):
    """An open store and the registered model in it."""

    client: "MlflowClient"
    experiment_id: str
    model: str
    """Name of the registered model."""


@contextmanager
def open_registry(root: Path) -> Iterator[Registry]:
    """Open the store of the project in `root`; makes the registered model.

    Raises:
        StillhouseError: the store cannot be opened, or fails within the block.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # the error says what went wrong
    try:
        registry = _open(prepare_store(root))
    except Exception as error:  # whatever it is, one line says so
        raise StillhouseError(
            f"the registry in {shown_uri(root)} cannot be opened: {one_line(error)}"
        ) from None
    from mlflow.exceptions import MlflowException

    try:
        yield registry
    except MlflowException as error:
        raise StillhouseError(
            f"the registry in {shown_uri(root)} failed: {one_line(error)}. Run the same command "
            f"again when it is back; it goes on where it stopped."
        ) from None


def register(registry: Registry, candidates: Mapping[str, Facts], root: Path) -> dict[str, int]:
    """Register every candidate that has no version yet; returns all their versions by name.

    Args:
        candidates: what to tag each version with; model_sha256, folder and lineage among it.
        root: the project; a model folder that is there gives its contract.
    """
    found = {name: find_version(registry, facts[DIGEST]) for name, facts in candidates.items()}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        with _run(registry) as run_id:
            for name in missing:
                found[name] = _create(registry, name, candidates[name], root, run_id)
    return {name: version for name, version in found.items() if version is not None}


def find_version(registry: Registry, sha256: str) -> int | None:
    """The first version of the model with this digest."""
    where = f"name='{registry.model}' AND tag.{DIGEST}='{sha256}'"
    versions = [int(version.version) for version in registry.client.search_model_versions(where)]
    return min(versions, default=None)


def set_aliases(registry: Registry, roles: Mapping[str, str | None]) -> dict[str, int]:
    """Point each alias to the version with its digest, and take away those without one.

    A role whose model this registry has never seen loses its alias too: no alias is better than
    one on a wrong model.
    """
    there = registry.client.get_registered_model(registry.model).aliases
    versions: dict[str, int] = {}
    for alias, sha256 in roles.items():
        version = find_version(registry, sha256) if sha256 else None
        if version is not None:
            registry.client.set_registered_model_alias(registry.model, alias, str(version))
            versions[alias] = version
        elif alias in there:
            registry.client.delete_registered_model_alias(registry.model, alias)
    return versions


def set_tags(registry: Registry, tags: Mapping[str, Facts]) -> None:
    """Tag the version of each model that this registry has seen, by the model's digest."""
    for sha256, facts in tags.items():
        version = find_version(registry, sha256)
        for key, value in facts.items() if version is not None else ():
            registry.client.set_model_version_tag(registry.model, str(version), key, value)


def read_aliases(database: Path) -> dict[str, dict[str, str]]:
    """Digest of the model behind each alias of each registered model in an MLflow database.

    Args:
        database: a SQLite file; nothing in it changes, not even its place for artifacts.

    Raises:
        StillhouseError: it cannot be read, or another version of MLflow wrote it.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # the error says what went wrong
    from mlflow import MlflowClient, __version__

    try:
        client = MlflowClient(f"sqlite:///{database}")
        return {
            model.name: {
                alias: client.get_model_version(model.name, str(version)).tags[DIGEST]
                for alias, version in sorted(model.aliases.items())
            }
            for model in client.search_registered_models()
        }
    except Exception as error:  # whatever it is, one line says so
        raise StillhouseError(
            f"MLflow {__version__} cannot read the aliases in {database.name}: {one_line(error)}"
        ) from None


def _open(store: Store) -> Registry:
    from mlflow.exceptions import MlflowException

    experiment = store.client.get_experiment(store.experiment_id)
    name = "".join("-" if letter in "/:'\"" else letter for letter in experiment.name)
    try:
        store.client.create_registered_model(
            name, description="Candidates of Stillhouse; releases/ says why each alias is where."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return Registry(store.client, store.experiment_id, name)


@contextmanager
def _run(registry: Registry) -> Iterator[str]:
    """The run that registers: what a version belongs to whose own run is not in this store."""
    tags = {"stage": "release", "mlflow.source.name": "stages.release"}
    run = registry.client.create_run(registry.experiment_id, int(time() * 1000), tags, "release")
    try:
        yield run.info.run_id
    except BaseException:
        registry.client.set_terminated(run.info.run_id, "FAILED")
        raise
    registry.client.set_terminated(run.info.run_id)


def _create(registry: Registry, name: str, facts: Facts, root: Path, run_id: str) -> int:
    """Make one version; what a crash left of an earlier attempt is used."""
    made_by = facts.get("run_id")
    source_run = made_by if made_by and _has_run(registry, made_by) else run_id
    model = _logged_model(registry, name, facts, root, source_run)
    version = registry.client.create_model_version(
        registry.model,
        model.artifact_location,
        run_id=source_run,  # without one a local store would ask whichever store is global
        tags=dict(facts),
        description=facts.get("lineage"),
        await_creation_for=0,
        model_id=model.model_id,
    )
    return int(version.version)


def _logged_model(
    registry: Registry, name: str, facts: Facts, root: Path, run_id: str
) -> "LoggedModel":
    client = registry.client
    where = f"tags.{DIGEST} = '{facts[DIGEST]}'"
    models = client.search_logged_models([registry.experiment_id], where)
    model = models[0] if models else None
    if model is None:
        model = client.create_logged_model(registry.experiment_id, name, run_id, dict(facts))
    if str(model.status) != "READY":
        folder = root / facts["folder"]
        # made again from a record, its folder may be gone or hold another model
        if (folder / CONTRACT_NAME).is_file() and digest(folder) == facts[DIGEST]:
            client.log_model_artifact(model.model_id, str(folder / CONTRACT_NAME))
        model = client.finalize_logged_model(model.model_id, "READY")
    return model


def _has_run(registry: Registry, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(registry.client.get_run(run_id).info.run_id == run_id)
    except MlflowException:
        return False
