"""The compiler's estimate of a program's time, by part of the model and kind of operation.

The compiler of TPUs writes the expected cycles of each fusion, and the iterations of each loop,
into the text of a program. Compilers of other chips do not. There a lower bound replaces the
cycles: the time of a fusion's operations at the chip's peak or of its bytes at the bandwidth,
whichever is larger.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from lzn_jax.run.costs import Chip

# If a path contains several parts, the first of these parts decides.
_PARTS = ("augmentation", "alignment", "zoning", "_encoder", "_decoder")
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_PRODUCTS = {"convolution", "dot"}
# Calls of the libraries that multiply matrices and convolve on GPUs.
_LIBRARIES = ("__cublas", "__cudnn$conv")
_COPIES = {
    *("copy", "transpose", "reshape", "broadcast", "pad", "slice", "concatenate"),
    *("dynamic-slice", "dynamic-update-slice", "gather"),
}
# Operations that need no time of their own.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "fusion", "while"),
    *("call", "conditional", "after-all", "partition-id", "copy-done", "slice-done", "async-done"),
}

_HEAD = re.compile(r"^(ENTRY)? ?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)(\(.*)$")
_OPERANDS = re.compile(r"^\(([^)]*)\)")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w*computations?)=(\{[^}]*\}|%[\w.\-]+)")
_NAME = re.compile(r"%([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION, _VALUE = re.compile(r"condition=%([\w.\-]+)"), re.compile(r"^\((\d+)\)")
_PATH = re.compile(r'op_name="([^"]*)"')
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d",]*)[}\]]')
_KERNEL = re.compile(r"dim_labels=\w+_(\w+)->")


class Instruction(NamedTuple):
    """A line of a compiled program: name and shape of the result, operation, and the rest."""

    name: str
    shape: str
    kind: str
    text: str

    @property
    def operands(self) -> list[str]:
        match = _OPERANDS.match(self.text)
        return _NAME.findall(match[1]) if match else []

    @property
    def called(self) -> list[str]:
        return _NAME.findall(" ".join(_CALLED.findall(self.text)))

    @property
    def is_product(self) -> bool:
        return self.kind in _PRODUCTS or (
            self.kind == "custom-call" and any(library in self.text for library in _LIBRARIES)
        )

    def number(self, pattern: re.Pattern[str]) -> int | None:
        return int(match[1]) if (match := pattern.search(self.text)) else None


Computation = dict[str, Instruction]  # by name
Program = dict[str, Computation]  # by name, where ENTRY runs first


class Step(NamedTuple):
    """A fusion or a single operation that a program executes `times` times."""

    computation: Computation  # the computation that contains it
    instruction: Instruction
    inside: list[Instruction]  # of a fusion; else the instruction alone
    times: int
    is_in_loop: bool

    @property
    def kinds(self) -> set[str]:
        return {each.kind for each in self.inside}

    @property
    def collective(self) -> str | None:
        if any("all-reduce-scatter" in name for name in self.instruction.called):
            return "reduce-scatter"  # on TPUs a fusion of an all-reduce and of slicing
        return next((k for k in _COLLECTIVES if self.kinds & {k, f"{k}-start"}), None)

    @property
    def place(self) -> tuple[str, str]:
        if self.collective:
            return "collectives", self.collective
        match = _PATH.search(self.instruction.text)
        path = match[1] if match else ""
        part = next((part for part in _PARTS if part in path), "other")
        if part.startswith("_"):
            part = re.findall(rf"\w+{part}", path)[0].replace("_", " ")
        elif part == "other" and path and "jvp" not in path:  # not differentiated
            part = "optimizer"
        if any(each.is_product for each in self.inside):
            return part, "products"
        if "norm" in path:
            return part, "normalisation"
        return part, "copies" if self.kinds <= _COPIES | _FREE else "elementwise"


class Estimate(NamedTuple):
    """Seconds of a program on one chip."""

    seconds: dict[tuple[str, str], float]  # by part of the model and kind of operation
    cycles: int | None  # the compiler's total; None if the seconds are lower bounds
    loops: int  # loops whose iterations are unknown and count as one
    unknown: Counter[str]  # executions of operations without an estimate, by kind
    bound: float  # seconds that the bytes of these operations take at the chip's bandwidth


def parse(text: str) -> Program:
    """Instructions in the text of a compiled program."""
    program, computation = Program(), Computation()
    for line in text.splitlines():
        if match := _HEAD.match(line):
            computation = program[match[1] or match[2]] = {}
        elif match := _INSTRUCTION.match(line):
            computation[match[1]] = Instruction(*match.groups())
    return program


def steps(
    program: Program, name: str = "ENTRY", times: int = 1, is_in_loop: bool = False
) -> Iterator[Step]:
    """Every step that a program executes, including both branches of conditionals."""
    for instruction in program[name].values():
        if instruction.kind in ("while", "call", "conditional", "async-start"):
            is_loop = instruction.kind == "while"
            count = times * (_iterations(program, instruction) or 1) if is_loop else times
            for called in instruction.called:
                yield from steps(program, called, count, is_in_loop or is_loop)
        inside = [instruction]
        if instruction.kind == "fusion":
            inside += _inside(program, instruction)
        yield Step(program[name], instruction, inside, times, is_in_loop)


def _iterations(program: Program, loop: Instruction) -> int | None:
    """Iterations of a loop, from the compiler or from the bound of a scan's counter."""
    if (number := loop.number(_TRIPS)) is not None:
        return number
    (condition,) = _CONDITION.findall(loop.text)
    others = ("parameter", "get-tuple-element")
    compared = [each for each in program[condition].values() if each.kind not in others]
    if [each.kind for each in compared] != ["constant", "compare"] or "LT" not in compared[1].text:
        return None
    return compared[0].number(_VALUE)


def _inside(program: Program, instruction: Instruction) -> Iterator[Instruction]:
    for name in instruction.called:
        for each in program[name].values():
            yield each
            yield from _inside(program, each)


def collectives(program: Program) -> Counter[tuple[str, str]]:
    """Number of collectives in a program by place (in or outside loops) and kind."""
    where = {True: "in loops", False: "outside loops"}
    kinds = ((where[step.is_in_loop], step.collective) for step in steps(program))
    return Counter((place, kind) for place, kind in kinds if kind)


def estimate(program: Program, chip: Chip) -> Estimate:
    """Sum of the compiler's cycles, or of lower bounds, times the iterations of loops."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    total, loops, bound, unknown = 0, 0, 0.0, Counter[str]()
    for step in steps(program):
        cycles = step.instruction.number(_CYCLES)
        if step.instruction.kind == "while":
            loops += _iterations(program, step.instruction) is None
        elif chip.cycles and cycles is not None:
            total += step.times * cycles
            seconds[step.place] += step.times * cycles / chip.cycles
        elif not step.kinds <= _FREE:
            by_bytes = step.times * _traffic(program, step) / chip.bandwidth
            if chip.cycles:
                unknown[step.instruction.kind] += step.times
                bound += by_bytes
            else:
                by_operations = step.times * sum(_operations(step)) / chip.operations
                seconds[step.place] += max(by_bytes, by_operations)
    return Estimate(dict(seconds), total if chip.cycles else None, loops, unknown, bound)


def _traffic(program: Program, step: Step) -> int:
    """Lower bound of the bytes that a step reads and writes."""
    own, beside = step.instruction, step.computation
    read = {name: _bytes(beside[name].shape) for name in own.operands if name in beside}
    written = _bytes(own.shape)
    if own.kind == "fusion":
        inner = program[own.called[0]]
        written = _written(list(inner.values())[-1], inner)
        parameters = (each for each in inner.values() if each.kind == "parameter")
        indices = {int(each.text[1 : each.text.index(")")]): each for each in parameters}
        for index, name in enumerate(own.operands):
            if name in read and index in indices:
                read[name] = min(read[name], _read(indices[index], inner))
    elif own.kind in _COPIES:
        return 2 * min(written, sum(read.values()))
    elif own.is_product:
        written = _bytes(own.shape.split("]")[0] + "]")  # without the library's scratch
    return written + sum(read.values())


def _read(parameter: Instruction, inner: Computation) -> int:
    """Bytes of an operand that a fusion reads, which are few if it only slices."""
    total = 0
    for user in inner.values():
        if parameter.name in user.operands:
            if user.kind == "bitcast":
                total += _read(user, inner)
            elif user.kind in ("dynamic-slice", "slice", "gather"):
                total += _bytes(user.shape)
            elif user.kind != "dynamic-update-slice" or user.operands[0] != parameter.name:
                return _bytes(parameter.shape)
    return total


def _written(root: Instruction, inner: Computation) -> int:
    if root.kind == "tuple":
        return sum(_written(inner[name], inner) for name in root.operands)
    if root.kind == "bitcast":
        return _written(inner[root.operands[0]], inner)
    if root.kind == "dynamic-update-slice":  # in place
        return _bytes(inner[root.operands[1]].shape)
    return _bytes(root.shape)


def _operations(step: Step) -> Iterator[float]:
    """Operations of the products inside a step. A multiply-add counts as two."""
    beside = step.computation | {each.name: each for each in step.inside}
    for each in step.inside:
        if each.is_product:
            left, right, *_ = (_sizes(beside[name].shape) for name in each.operands)
            result = _sizes(each.shape)
            if match := _CONTRACTED.search(each.text):
                contracted = (left[int(axis)] for axis in re.findall(r"\d+", match[1]))
                yield 2.0 * math.prod(result) * math.prod(contracted)
            elif match := _KERNEL.search(each.text):
                kernel, output = right, result
                if "BackwardInput" in each.text:
                    output = left
                elif "BackwardFilter" in each.text:
                    kernel, output = result, right
                inputs = math.prod(kernel) / kernel[match[1].index("o")]
                yield 2.0 * math.prod(output) * inputs


def _sizes(shape: str) -> tuple[int, ...]:  # of the first array of a tuple
    match = _SHAPE.search(shape)
    return tuple(int(size) for size in match[2].split(",") if size) if match else ()


def _bytes(shape: str) -> int:  # of all arrays of a tuple
    total = 0
    for dtype, sizes in _SHAPE.findall(shape):
        bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
        total += max(bits // 8, 1) * math.prod(int(size) for size in sizes.split(",") if size)
    return total
