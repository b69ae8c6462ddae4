"""The arrays in CIFAR's Python version, without running a pickle. Example: pixels(plain(content)["data"])

A pickle is a program that may call any function, so none is given to Python. This follows the few instructions that
Python 2 used to write dicts, lists, byte strings and whole numbers, and keeps what NumPy added as data. Any other
instruction, and any name but NumPy's three, refuses the file.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.arrays import WrongContent

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARRAY = "numpy.core.multiarray _reconstruct"
NAMES = (ARRAY, "numpy ndarray", "numpy dtype")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NOT_OURS = "which no file of CIFAR does"


@dataclass(frozen=True)
class _Name:
    """Where a pickle names a function."""

    name: str


@dataclass
class _Call:
    """Where a pickle would call a function, and what it would then set."""

    name: str
    arguments: Any
    state: Any = None


class _Machine:
    """The stack and the numbered objects of a pickle, as pickletools.py describes them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items, self.stack[start:] = self.stack[start:], []
        return items

    def step(self, instruction: str, argument: Any) -> None:
        """Raises WrongContent for an instruction or a name that CIFAR does not use; anything for nonsense."""
        stack = self.stack
        match instruction:
            case "PROTO" | "STOP":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(CONSTANTS[instruction])
            case "BININT" | "BININT1" | "BININT2":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument.encode("latin-1"))  # the bytes, as pickletools decodes them
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(instruction[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND" | "APPENDS":
                items = self.since_mark() if instruction == "APPENDS" else [stack.pop()]
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.since_mark() if instruction == "SETITEMS" else [stack.pop(-2), stack.pop()]
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                if argument not in NAMES:
                    raise WrongContent(f"it names {argument}, {NOT_OURS}")
                stack.append(_Name(argument))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_Call(stack.pop().name, arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case _:
                raise WrongContent(f"it uses the instruction {instruction}, {NOT_OURS}")


def plain(content: bytes) -> dict[str, Any]:
    """The dict in a file of CIFAR's Python version, its keys as text. Raises WrongContent for anything else."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            machine.step(opcode.name, argument)
        (found,) = machine.stack
        return {key.decode(): value for key, value in found.items()}
    except WrongContent:
        raise
    except Exception as error:  # what breaks off, or is no pickle, fails in a dozen ways
        raise WrongContent(f"it is no file of CIFAR's Python version ({type(error).__name__}: {error})") from None


def pixels(value: Any) -> NDArray[np.uint8]:
    """The rows of an array of bytes, (N, width). Raises WrongContent."""
    match value.state if isinstance(value, _Call) and value.name == ARRAY else None:
        case (
            int(),
            (int() as rows, int() as width),
            _Call("numpy dtype", (b"u1", *_)),
            bool() as by_columns,
            bytes() as raw,
        ):
            if rows >= 0 and width >= 0 and len(raw) == rows * width:
                return np.frombuffer(raw, np.uint8).reshape(rows, width, order="F" if by_columns else "C")
    raise WrongContent("its data are no array of bytes")


def labels(value: Any, classes: int) -> NDArray[np.int64]:
    """A list of whole numbers in 0..classes - 1. Raises WrongContent."""
    if not isinstance(value, list) or not all(type(label) is int and 0 <= label < classes for label in value):
        raise WrongContent(f"its labels are no list of numbers below {classes}")
    return np.array(value, np.int64)
