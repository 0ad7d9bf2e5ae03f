"""What the cloud's paths say of themselves in the service's OpenAPI document."""

from pydantic import BaseModel, RootModel

from serving._cloud.instances import Instances
from serving._cloud.paths import PREDICT, CloudPaths
from serving._metric_series import ROUTES
from serving._native import GenerateBody
from serving._native_document import STATUSES, GenerateAnswer
from serving._openai_fields import ChatBody
from serving._openai_objects import ChatCompletion, ChatCompletionChunk
from serving._openapi import LIFECYCLE, Operation

OURS = {*ROUTES, *(operation.path for operation in LIFECYCLE)} - set(PREDICT.values())


class AskedBody(RootModel[GenerateBody | ChatBody]):
    """A body of /generate or of a chat."""


class AskedAnswer(RootModel[GenerateAnswer | ChatCompletion]):
    """The answer in the form of the body."""


class Predictions(BaseModel):
    """An answer for each instance, in their order."""

    predictions: list[GenerateAnswer]


def operations_of(paths: CloudPaths) -> list[Operation]:
    """Of the paths that are not in the document already."""
    health = Operation(
        paths.health, "get", "Whether requests are taken", "text/plain", None, (503,), None
    )
    if paths.cloud == "vertex":
        predict = Operation(
            paths.predict, "post", "Answer instances", Predictions, Instances, STATUSES
        )
    else:
        predict = Operation(
            paths.predict,
            "post",
            "Answer a prompt or a chat",
            AskedAnswer,
            AskedBody,
            STATUSES,
            events=ChatCompletionChunk,
        )
    return [operation for operation in (health, predict) if operation.path not in OURS]
