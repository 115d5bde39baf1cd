"""The compiler's estimate of a program's time, by part of the model and kind of operation.

The compiler of TPUs writes into the text of a program how many cycles it expects of each fusion,
and how often each loop runs. The sum is an estimate of the time that needs no machine.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

# Cycles per second by the beginning of the device kind: the dense peak over operations per cycle.
_RATES = {"TPU v4": 1.05e9, "TPU v5 lite": 1.5e9, "TPU v5": 1.75e9, "TPU v6 lite": 1.75e9}
# A path may contain several parts; the first of these decides.
_PARTS = ("augmentation", "alignment", "zoning", "encoder", "decoder")
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_PRODUCTS = {"convolution", "dot"}
_COPIES = {
    *("copy", "transpose", "reshape", "broadcast", "pad", "slice", "concatenate"),
    *("dynamic-slice", "dynamic-update-slice", "gather"),
}
# Operations that take no time of their own.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "fusion"),
    *("while", "call", "conditional", "after-all", "partition-id"),
}

_HEAD = re.compile(r"^(ENTRY)? ?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)(\(.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w*computations?)=(\{[^}]*\}|%[\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION, _VALUE = re.compile(r"condition=%([\w.\-]+)"), re.compile(r"^\((\d+)\)")
_PATH = re.compile(r'op_name="([^"]*)"')


class Instruction(NamedTuple):
    """A line of a compiled program: the operation, and its operands and attributes."""

    kind: str
    text: str

    @property
    def called(self) -> list[str]:
        """Names of the computations that the instruction calls."""
        return re.findall(r"%([\w.\-]+)", " ".join(_CALLED.findall(self.text)))

    def number(self, pattern: re.Pattern[str]) -> int | None:
        """A number that the compiler has written into the attributes."""
        return int(match[1]) if (match := pattern.search(self.text)) else None


Program = dict[str, list[Instruction]]  # by computation; ENTRY runs first


class Step(NamedTuple):
    """A fusion or a single operation that a program executes.

    Attributes:
      instruction: its line.
      kinds: operations inside.
      times: number of executions.
      is_in_loop: whether a loop contains it.
    """

    instruction: Instruction
    kinds: frozenset[str]
    times: int
    is_in_loop: bool

    @property
    def collective(self) -> str | None:
        """Kind of communication between devices, if any."""
        if any("all-reduce-scatter" in name for name in self.instruction.called):
            return "reduce-scatter"  # on TPUs a fusion of an all-reduce and of slicing
        return next((k for k in _COLLECTIVES if self.kinds & {k, f"{k}-start"}), None)

    @property
    def place(self) -> tuple[str, str]:
        """Part of the model, and kind of operation."""
        if self.collective:
            return "collectives", self.collective
        match = _PATH.search(self.instruction.text)
        path = match[1] if match else ""
        part = next((part for part in _PARTS if part in path), "other")
        if part in ("encoder", "decoder"):
            part = re.findall(rf"\w*{part}", path)[0].replace("_", " ")
        elif part == "other" and path and "jvp" not in path:  # not differentiated
            part = "optimizer"
        if self.kinds & _PRODUCTS:
            return part, "products"
        if "norm" in path:
            return part, "normalisation"
        return part, "copies" if self.kinds <= _COPIES | _FREE else "elementwise"


class Estimate(NamedTuple):
    """Cycles of a program on one chip.

    Attributes:
      cycles: by part of the model and kind of operation.
      loops: number of loops whose iterations are unknown and count as one.
      unknown: number of executions of operations without an estimate, by kind.
    """

    cycles: dict[tuple[str, str], int]
    loops: int
    unknown: Counter[str]


def parse(text: str) -> Program:
    """Instructions in the text of a compiled program."""
    program, instructions = Program(), list[Instruction]()
    for line in text.splitlines():
        if match := _HEAD.match(line):
            instructions = program[match[1] or match[2]] = []
        elif match := _INSTRUCTION.match(line):
            instructions.append(Instruction(match[1], match[2]))
    return program


def steps(
    program: Program, name: str = "ENTRY", times: int = 1, is_in_loop: bool = False
) -> Iterator[Step]:
    """All that a program executes, with both branches of conditionals."""
    for instruction in program[name]:
        if instruction.kind in ("while", "call", "conditional", "async-start"):
            is_loop = instruction.kind == "while"
            count = times * (_iterations(program, instruction) or 1) if is_loop else times
            for called in instruction.called:
                yield from steps(program, called, count, is_in_loop or is_loop)
        kinds = frozenset({instruction.kind})
        if instruction.kind == "fusion":
            kinds |= _inside(program, instruction)
        yield Step(instruction, kinds, times, is_in_loop)


def _iterations(program: Program, loop: Instruction) -> int | None:
    """Iterations of a loop: the compiler's number, or the bound of the counter of a scan."""
    if (number := loop.number(_TRIPS)) is not None:
        return number
    (condition,) = _CONDITION.findall(loop.text)
    compared = [
        each for each in program[condition] if each.kind not in ("parameter", "get-tuple-element")
    ]
    if [each.kind for each in compared] != ["constant", "compare"] or "LT" not in compared[1].text:
        return None
    return compared[0].number(_VALUE)


def _inside(program: Program, instruction: Instruction) -> frozenset[str]:
    found = {each.kind for name in instruction.called for each in program[name]}
    inner = (each for name in instruction.called for each in program[name] if each.called)
    return frozenset(found).union(*(_inside(program, each) for each in inner))


def collectives(program: Program) -> Counter[tuple[str, str]]:
    """Number of collectives in a program by place (in or outside loops) and kind."""
    where = {True: "in loops", False: "outside loops"}
    kinds = ((where[step.is_in_loop], step.collective) for step in steps(program))
    return Counter((place, kind) for place, kind in kinds if kind)


def estimate(program: Program) -> Estimate:
    """Sum of the compiler's cycles, times the iterations of loops."""
    cycles: dict[tuple[str, str], int] = defaultdict(int)
    loops, unknown = 0, Counter[str]()
    for step in steps(program):
        number = step.instruction.number(_CYCLES)
        if step.instruction.kind == "while":
            loops += _iterations(program, step.instruction) is None
        elif number is not None:
            cycles[step.place] += step.times * number
        elif not step.kinds <= _FREE:
            unknown[step.instruction.kind] += step.times
    return Estimate(dict(cycles), loops, unknown)


def cycles_per_second(device_kind: str) -> float | None:
    """Clock of a chip whose compiler estimates cycles, None for other chips."""
    known = [kind for kind in _RATES if device_kind.startswith(kind)]
    return _RATES[max(known, key=len)] if known else None
