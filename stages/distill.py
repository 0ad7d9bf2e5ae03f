"""Distill: one student, trained by one recipe of params.yaml.

Reads   data/prepared/, data/labels/ and models/teacher/ (to cut a student out of it, for its
        tokenizer and, on-policy only, to judge the student's own texts)
Writes  models/<recipe>/ (weights, tokenizer, contract),
        reports/distill/<recipe>/distill.json (size, cost, fidelity, calibration, validation,
        epsilon where the recipe has privacy),
        reports/distill/<recipe>/curve.csv and validations.csv (by step)
Run     python -m stages.distill <recipe>
        accelerate launch --num_processes 2 -m stages.distill <recipe>

With stored log-probabilities the teacher is not in memory while the student learns. Work in
progress lies in scratch/distill/<hash of the inputs>; a killed run goes on from there.
"""

from pathlib import Path
from typing import Any

from stages import _io
from stages._params import Params, params_hash
from stages._stage import print_line, run_stage

SPLITS = ("train", "validation", "calibration", "test")
INPUTS = {f"{split}.jsonl": Path("data/prepared") / f"{split}.jsonl" for split in SPLITS}
INPUTS |= {"slots.json": Path("data/prepared/slots.json")}
INPUTS |= {"windows.jsonl": Path("data/prepared/windows.jsonl")}
INPUTS |= {"teacher": Path("models/teacher"), "labels": Path("data/labels")}


def distill(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Train the student whose recipe is named like its model folder; returns its report."""
    from stages import _learning as learning
    from stages import _student as student
    from stages._checkpoint import is_main, remove, scratch_folder
    from stages._sequences import describe_cut
    from stages._training import train

    name = outputs["model"].name
    recipe = student.find_recipe(params, name)
    params = student.without_other_recipes(params, name)
    if recipe.method == "on_policy":
        from stages._on_policy_student import check_processes

        check_processes()
    training = student.training_of(params, recipe)
    seed = params.seed + recipe.seed_offset
    task = learning.read_task(inputs)
    work = learning.settings_of(params.seed, params.run, params.distill, params.label)
    scratch = scratch_folder("distill", name, work, files=inputs.values())
    start = student.start_of_student(params, recipe, task, inputs)
    contract = learning.make_contract(
        start, task, params.distill.generation, params_hash(params, "distill")
    )
    validator = learning.make_validator(start, task, contract, training)
    sequences = student.training_sequences(params, recipe, start, task, inputs)
    limit = params.distill.generation.max_new_tokens
    if said := describe_cut(sequences, limit, "distill.generation.max_new_tokens"):
        print_line(f"{name}: {said}")
    privacy = student.privacy_of(recipe, sequences, training)
    trained = train(
        start.make,
        sequences,
        student.budget(training, recipe),
        validate=validator,
        vocabulary=validator.vocabulary,
        seed=seed,
        scratch=scratch,
        device=params.run.device,
        objective=student.objective_of(recipe),
        label=name,
        privacy=privacy,
    )
    learning.make_plain(trained)
    if recipe.method == "on_policy":
        from stages._on_policy_student import go_on_policy

        given = (params, recipe, start, task, inputs)
        go_on_policy(trained, *given, validate=validator, scratch=scratch, label=name)
    facts: dict[str, Any]
    facts = {"recipe": recipe.model_dump(mode="json"), "init": recipe.init, "seed": seed}
    facts["privacy"] = student.describe_privacy(privacy, recipe, inputs)
    facts |= student.measure(trained.model, params, recipe, start, validator, inputs)
    report = facts | learning.finish(trained, start, task, contract, params, training, outputs)
    if is_main():
        _io.write_json(outputs["reports"] / "distill.json", report)
    remove(scratch)
    return report


def main() -> None:
    """Run the stage on the project's own files, for the recipe on the command line."""

    def outputs(recipe: str) -> dict[str, Path]:
        return {"model": Path("models") / recipe, "reports": Path("reports/distill") / recipe}

    run_stage(distill, __doc__, lambda *_: INPUTS, outputs)


if __name__ == "__main__":
    main()
