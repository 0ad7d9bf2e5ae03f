"""Teacher: the model to learn from; trained from scratch, tuned, or a server's description.

Reads   data/prepared/train.jsonl, validation.jsonl and slots.json
Writes  models/teacher/ (weights, tokenizer, contract; for an endpoint its description),
        reports/teacher/teacher.json (size, cost of training, validation scores; the prompts
        that were tried, where params ask for a choice),
        reports/teacher/curve.csv and validations.csv (loss and scores by step)
Run     python -m stages.teacher        (several processes: accelerate launch -m stages.teacher)

Work in progress lies in scratch/teacher/<hash of the inputs>; a killed run goes on from there.
"""

import os
from pathlib import Path
from typing import Any

from stages import _io
from stages._params import Params, params_hash
from stages._stage import print_line, run_stage

INPUTS = {name: Path("data/prepared") / name for name in ("train.jsonl", "validation.jsonl")}
INPUTS["slots.json"] = Path("data/prepared/slots.json")
OUTPUTS = {"model": Path("models/teacher"), "reports": Path("reports/teacher")}


def teacher(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Make the teacher that params ask for; returns its size, cost and validation scores."""
    main = os.environ.get("RANK", "0") == "0"
    if params.teacher.source != "endpoint":
        report = _train(params, inputs, outputs)
    elif main:
        from stages._endpoint_teacher import describe_endpoint

        report = describe_endpoint(params, inputs, outputs["model"])
        for name in ("curve.csv", "validations.csv"):  # outputs that DVC expects of every teacher
            _io.write_text(outputs["reports"] / name, "step\n")
    else:
        return {}  # one process of a run is enough to ask and to pay
    report = {"source": params.teacher.source, **report}
    if main:
        _io.write_json(outputs["reports"] / "teacher.json", report)
    return report


def _train(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    from stages import _learning as learning
    from stages._checkpoint import remove, scratch_folder
    from stages._sequences import describe_cut, encode_examples
    from stages._training import Trained, train
    from stages._value_noise import invent_values

    settings = params.teacher.training
    task = learning.read_task(inputs)
    work = learning.settings_of(params.seed, params.run, params.teacher)
    scratch = scratch_folder("teacher", work, files=inputs.values())
    start, prompting = learning.start_of_teacher(params, task, scratch), None
    if params.teacher.prompting is not None:
        from stages._prompt_trials import choose_for_model

        start, prompting = choose_for_model(params, task, start)
    contract = learning.make_contract(
        start, task, params.teacher.generation, params_hash(params, "teacher")
    )
    validator = learning.make_validator(start, task, contract, settings)
    if start.tuned:
        examples = invent_values(task.train, settings.value_noise, params.seed)
        sequences = encode_examples(examples, start.prompts, start.end, start.positions)
        limit = params.teacher.generation.max_new_tokens
        named = "teacher.generation.max_new_tokens, label.generation's and distill's"
        if said := describe_cut(sequences, limit, named):
            print_line(f"teacher: {said}")
        trained = train(
            start.make,
            sequences,
            settings,
            validate=validator,
            vocabulary=validator.vocabulary,
            seed=params.seed,
            scratch=scratch,
            device=params.run.device,
            label="teacher",
        )
    else:
        trained = Trained(start.make(), 0)
    learning.make_plain(trained)
    report = learning.finish(trained, start, task, contract, params, settings, outputs)
    remove(scratch)
    return report | {"prompting": prompting}


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(teacher, __doc__, INPUTS, OUTPUTS, spin=True)


if __name__ == "__main__":
    main()
