"""ExecuTorch with Core ML's delegate: a `.pte` that calls a Core ML model inside it.

ExecuTorch's runtime has this delegate on Apple systems only. What can be judged elsewhere is the model: it is taken out of
the saved file and run by our interpreter of Core ML's language, and it is given what the file's plan would give it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.extras import require, silenced
from edgetam_pl.exporting.mil_interpreter import Interpreter
from edgetam_pl.exporting.parts import Part

DELEGATE = "CoreMLBackend"
"""Its name in a `.pte`."""

EXECUTED = (
    "our interpreter, over torch, of the Core ML model that was taken out of each saved .pte, called as its plan says; the "
    ".pte files themselves were not executed, because ExecuTorch's runtime has Core ML's delegate on Apple systems only"
)


def partitioner(config: ExportConfig, extra: str) -> Any:
    """What hands whole programs to Core ML. In fp32, because its fp16 would round coordinates too."""
    ct, coreml = require("coremltools"), require("executorch.backends.apple.coreml.partition", extra)
    compiler = require("executorch.backends.apple.coreml.compiler", extra).CoreMLBackend
    target = {"ios17": ct.target.iOS17, "ios18": ct.target.iOS18}[config.system]
    settings = compiler.generate_compile_specs(minimum_deployment_target=target, compute_precision=ct.precision.FLOAT32)
    return coreml.CoreMLPartitioner(compile_specs=settings, lower_full_graph=True)


def is_delegated(path: Path) -> bool:
    """Does the saved part call Core ML?"""
    return DELEGATE.encode() in path.read_bytes()


class DelegatedProgram:
    """The Core ML model inside a saved part, under our interpreter.

    Raises:
        ValueError: the plan is not one call of Core ML, so that running the model would not be running the part.
    """

    def __init__(self, path: Path, part: Part, extra: str) -> None:
        plan, tools = plan_of(path, extra), require("executorch.backends.apple.coreml.executorchcoreml", extra)
        with tempfile.TemporaryDirectory() as folder:
            if not tools.unflatten_directory_contents(plan.model, folder):
                raise ValueError(f"{path.name}: what Core ML's delegate is given cannot be unpacked; export again.")
            (description,) = Path(folder).glob("*/metadata.json")
            names = json.loads(description.read_text("utf-8"))
            with silenced():
                self.model = Interpreter.load(description.with_name("model.mlpackage"), rounded=False, record=False)
        self.given = {name: part.inputs[i].name for name, i in zip(names["inputNames"], plan.inputs, strict=True)}
        self.made = {part.outputs[i].name: name for name, i in zip(names["outputNames"], plan.outputs, strict=True)}

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if set(inputs) != set(self.given.values()):
            raise ValueError(f"the program takes {sorted(self.given.values())}; given {sorted(inputs)}.")
        results = self.model({name: inputs[feature] for name, feature in self.given.items()})
        return {feature: results[name] for feature, name in self.made.items()}


class Plan(NamedTuple):
    """What a `.pte` does: one call of Core ML."""

    model: bytes
    inputs: list[int]
    """Which of the part's inputs each argument of the model is."""
    outputs: list[int]
    """Which of the part's outputs each result of the model is."""


def plan_of(path: Path, extra: str) -> Plan:
    """Read the plan of a saved part.

    Raises:
        ValueError: it is more than one call of Core ML on the part's own inputs and outputs.
    """
    with silenced():
        reader = require("executorch.exir._serialize._program", extra)
        program = reader.deserialize_pte_binary(path.read_bytes()).program
    (plan,) = program.execution_plan
    instructions = [each.instr_args for chain in plan.chains for each in chain.instructions]
    calls = [each for each in instructions if hasattr(each, "delegate_index")]
    if len(instructions) != 1 or len(calls) != 1:
        raise ValueError(
            f"{path.name} has {len(instructions)} steps, {len(calls)} of them in a delegate; one call was expected."
        )
    (call,) = calls
    delegate = plan.delegates[call.delegate_index]
    places, count = {value: i for i, value in enumerate(plan.inputs)}, len(call.args) - len(plan.outputs)
    results = {value: i for i, value in enumerate(plan.outputs)}
    given, made = call.args[:count], call.args[count:]
    if delegate.id != DELEGATE or not set(given) <= set(places) or set(made) != set(results):
        raise ValueError(
            f"{path.name}: {delegate.id} is called with {call.args}; the part has {plan.inputs}, {plan.outputs}."
        )
    model = program.backend_delegate_data[delegate.processed.index].data
    return Plan(bytes(model), [places[value] for value in given], [results[value] for value in made])
