"""The fields of the OpenAI protocol: what is supported, what is refused, what is ignored.

The bodies' models hold what is supported; their descriptions say what is expected, and errors
repeat it. The tables hold the rest. A field that would change the answer is refused by name
unless its value asks for nothing: an answer that silently ignores `tools` is a wrong answer. One
that changes nothing for the caller is ignored, because clients send it by themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving._openai_errors import RequestError


@dataclass(frozen=True)
class Refused:
    """Why a field cannot be honoured, and its values that ask for nothing (null always does)."""

    why: str
    neutral: tuple[Any, ...] = ()


_NO_TOOLS = "the models here call no tools"
_NO_LOGPROBS = "log-probabilities of single tokens are not kept"
_TEXT_ONLY = "the models here read and write text only"
_NO_PENALTY = "the models were evaluated without penalties"

REFUSED: Mapping[str, Refused] = {
    "logit_bias": Refused("the models were evaluated without a bias", ({},)),
    "presence_penalty": Refused(_NO_PENALTY, (0,)),
    "frequency_penalty": Refused(_NO_PENALTY, (0,)),
}
REFUSED_IN_CHATS: Mapping[str, Refused] = {
    **REFUSED,
    "tools": Refused(_NO_TOOLS, ([],)),
    "tool_choice": Refused(_NO_TOOLS, ("none", "auto")),
    "functions": Refused(_NO_TOOLS, ([],)),
    "function_call": Refused(_NO_TOOLS, ("none", "auto")),
    "response_format": Refused("only plain text is written", ({"type": "text"},)),
    "modalities": Refused(_TEXT_ONLY, (["text"],)),
    "audio": Refused(_TEXT_ONLY),
    "logprobs": Refused(_NO_LOGPROBS, (False,)),
    "top_logprobs": Refused(_NO_LOGPROBS, (0,)),
    "web_search_options": Refused("nothing is searched"),
    "moderation": Refused("nothing is moderated"),
    "reasoning_effort": Refused("the models here do not reason first", ("none",)),
    "verbosity": Refused("how long an answer is was learned", ("medium",)),
}
REFUSED_IN_COMPLETIONS: Mapping[str, Refused] = {
    **REFUSED,
    "echo": Refused("the prompt is not repeated", (False,)),
    "suffix": Refused("nothing is inserted before a text", ("",)),
    "logprobs": Refused(_NO_LOGPROBS),
}
REFUSED_IN_MESSAGES: Mapping[str, Refused] = {
    "tool_calls": Refused(_NO_TOOLS, ([],)),
    "tool_call_id": Refused(_NO_TOOLS),
    "function_call": Refused(_NO_TOOLS),
    "audio": Refused(_TEXT_ONLY),
    "refusal": Refused("a refusal is no turn to answer"),
}
# Bookkeeping of the official service: what the caller gets is the same without.
IGNORED = (
    "metadata",
    "parallel_tool_calls",  # of tools, which are refused
    "prediction",  # would only make the same answer faster
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
)
IGNORED_IN_MESSAGES = ("name", "annotations")
IGNORED_IN_PARTS = ("prompt_cache_breakpoint",)


def set_aside(
    data: Mapping[str, Any],
    refused: Mapping[str, Refused],
    ignored: tuple[str, ...],
    path: str = "",
) -> dict[str, Any]:
    """`data` without the fields named here; `path` comes before a name in messages.

    Raises:
        RequestError: a field asks for what cannot be done; all of them are named.
    """
    asked = [name for name in refused if not _is_neutral(data.get(name), refused[name].neutral)]
    if asked:
        reasons = "; ".join(f"{path}{name} is not supported: {refused[name].why}" for name in asked)
        raise RequestError(
            f"{reasons}. Leave {'it' if len(asked) == 1 else 'them'} out.",
            "unsupported_parameter",
            parameter=f"{path}{asked[0]}",
        )
    return {name: data[name] for name in data if name not in refused and name not in ignored}


def field_schemas(refused: Mapping[str, Refused], ignored: tuple[str, ...]) -> dict[str, Any]:
    """JSON Schema of the same fields, by name."""
    taken = {
        name: {"enum": [None, *rule.neutral], "description": f"Not supported: {rule.why}."}
        for name, rule in refused.items()
    }
    return {**taken, **{name: {"description": "Accepted and ignored."} for name in ignored}}


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a value asks for nothing; False is not 0, though Python says so."""
    same_kind = [one for one in neutral if isinstance(one, bool) == isinstance(value, bool)]
    return value is None or value in same_kind


StopText = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(BaseModel):
    """What a stream says beside its text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = Field(None, description="true or false")
    include_obfuscation: bool | None = Field(None, description="true or false; ignored")


class Asking(BaseModel):
    """Fields that both bodies share; descriptions say what is expected, in errors as well."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256, description="an id that /v1/models lists")
    max_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="a whole number from 1 [tokens]"
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="a number from 0 (the likeliest token) to 2"
    )
    top_p: float | None = Field(None, gt=0, le=1, description="a number above 0, at most 1")
    n: int | None = Field(None, ge=1, description="a whole number from 1")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="a whole number of 64 bits")
    stop: StopText | list[StopText] | None = Field(
        None, description="a text or a list of texts of 1 to 256 characters"
    )
    stream: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = Field(
        None, description="an object with include_usage, when stream is true"
    )
    user: str | None = Field(None, max_length=512, description="a text of up to 512 characters")
    context: str | None = Field(None, description="a text that the answer may draw on")
    slots: dict[str, str] | None = Field(
        None, description="the prompt's record: texts by slot name"
    )


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"x-also": field_schemas({}, IGNORED_IN_PARTS)},
    )

    type: Literal["text"] = Field(description='"text" (images, audio and files are not read)')
    text: str = Field(description="a text")


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"x-also": field_schemas(REFUSED_IN_MESSAGES, IGNORED_IN_MESSAGES)},
    )

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="one of system, developer, user, assistant (tools are not supported)"
    )
    content: str | list[TextPart] = Field(description="a text or a list of text parts")

    @property
    def text(self) -> str:
        """All its text; parts are lines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatBody(Asking):
    """Body of /v1/chat/completions."""

    model_config = ConfigDict(
        json_schema_extra={"x-also": field_schemas(REFUSED_IN_CHATS, IGNORED)}
    )

    messages: list[Message] = Field(
        min_length=1, description="a list of messages, the last one by the user"
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="a whole number from 1 [tokens]"
    )


class CompletionBody(Asking):
    """Body of /v1/completions."""

    model_config = ConfigDict(
        json_schema_extra={"x-also": field_schemas(REFUSED_IN_COMPLETIONS, IGNORED)}
    )

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    ) = Field(description="a text that is not empty, or a list of such (no token ids)")
    best_of: int | None = Field(None, ge=1, description="a whole number from n")
