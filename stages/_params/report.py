"""Section `report`: what the report shows, and which licences the model card names."""

from pydantic import Field

from stages._params.base import Section


class Report(Section):
    """What the report shows, and which licences the model card names."""

    title: str = "Stillhouse"
    """Name of the model in report and model card."""
    worst_examples: int = Field(8, ge=0)
    """Test prompts shown whose answer by the winner is worst [count]."""
    random_examples: int = Field(4, ge=0)
    """Further test prompts, drawn by the seed [count], so that not only faults are seen."""
    language: str = "en"
    """Language of the data, as in ISO 639-1."""
    licence: str | None = None
    """Of the model, as the Hugging Face hub spells it (apache-2.0, other …); null: apache-2.0 where
    data and teacher are the built-in ones, else "unknown"."""
    teacher_licence: str | None = None
    """Of a pretrained teacher or of an endpoint's answers; null: "unknown", said loudly. A teacher
    trained from scratch has none of its own."""
    data_licence: str | None = None
    """Of the training data; null: "unknown", but for the built-in data, which Stillhouse makes."""
