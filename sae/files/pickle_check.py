"""Looks at a pickle before it is unpickled: how much it holds, what it refers to, and that it is built as torch.save's.

torch.load(weights_only=True) runs nothing, but it still hashes keys, prints what it does not know and makes a Python
object of every byte. So the pickle is first run on a stack that has kinds in place of objects.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .quote import shown

# `data.pkl` holds names, shapes and the numbers of a config. A tensor takes about 40 operations and 200 bytes, the
# largest checkpoints that are known to be saved in one file about 1,500 tensors (FLUX.1 has 780, an SAE some ten) and
# a training checkpoint of one a history of some 10,000 numbers. These bounds hold three times that; an operation
# costs at most 300 bytes of memory here and in torch, so 75 MB in all.
MAX_PICKLE_BYTES = 8 * 2**20
MAX_OPERATIONS = 250_000
MOST_IN_KEY = 64  # values in a tuple that is a key, which is hashed
MOST_IN_CALL = 1000  # values that a call is given: a tensor's storage, and up to 64 lengths and strides

# What a file of tensors, numbers and texts refers to.
_CALLED = {
    "collections.OrderedDict",
    "collections.defaultdict",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}
_HARMLESS = {*_CALLED, "torch.storage.UntypedStorage"}
_DTYPES = {str(dtype) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_RUNS_CODE = {"os", "posix", "nt", "sys", "subprocess", "builtins", "__builtin__", "runpy", "importlib", "shutil"}
_RUNS_CODE |= {"socket", "ctypes", "pickle", "code", "codeop", "operator", "functools", "types", "webbrowser", "pty"}

Operation = tuple[str, Any]


class UnsoundError(ValueError):
    """The pickle is not one that torch.save writes; the text says why, as the inside of a sentence."""


def check_pickle(data: bytes, label: str) -> None:
    """Raises ValueError, a sentence, for a pickle that would run code, and UnsoundError for one that is not sound."""
    operations = _operations(data)
    for name, argument in operations:
        if name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            _check_name(".".join(str(argument).split(" ")), label)
    _Stack().run(operations)


def _operations(data: bytes) -> list[Operation]:
    if len(data) > MAX_PICKLE_BYTES:
        raise UnsoundError("its data.pkl is too large")
    operations: list[Operation] = []
    try:
        for operation, argument, _ in pickletools.genops(data):
            if len(operations) >= MAX_OPERATIONS:
                raise UnsoundError("it holds too many objects")
            operations.append((operation.name, argument))
    except UnsoundError:
        raise
    except (ValueError, OSError, EOFError, NotImplementedError, IndexError, OverflowError) as error:
        raise UnsoundError("its pickle cannot be read") from error
    return operations


def _check_name(name: str, label: str) -> None:
    module, _, attribute = name.rpartition(".")
    if name in _HARMLESS or name in _DTYPES or (module == "torch" and attribute.endswith("Storage")):
        return
    if module.split(".")[0] in _RUNS_CODE and attribute != "set":
        raise ValueError(
            f"{label}: this pickle would run code ({shown(name, 60)}) and was not opened; do not load it elsewhere "
            f"either, and get the SAE's tensors as safetensors or as a plain state dict."
        )
    raise ValueError(
        f"{label}: this is a pickled object ({shown(name, 60)}), which only its own code can open; save its "
        f"state_dict() with torch.save or as safetensors, and load that."
    )


@dataclass(frozen=True)
class _Value:
    """What lies on the stack in place of an object. `size` is 1 and, of a tuple, what it unfolds to."""

    kind: str  # scalar, name, tuple, list, dict, storage, other
    size: int = 1
    items: tuple[_Value, ...] = ()
    name: str = ""


_SCALAR, _LIST, _DICT, _OTHER, _STORAGE = map(_Value, ("scalar", "list", "dict", "other", "storage"))
_PUSHED = {
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _SCALAR),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINSTRING"), _SCALAR),
    "EMPTY_LIST": _LIST,
    "EMPTY_DICT": _DICT,
    "EMPTY_TUPLE": _Value("tuple"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Stack:
    """Runs the operations that torch.save writes; UnsoundError at any other, and at a use that it does not make."""

    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.below: list[list[_Value]] = []  # the stacks under the marks
        self.memo: dict[int, _Value] = {}

    def run(self, operations: Sequence[Operation]) -> None:
        try:
            for name, argument in operations:
                if name in _PUSHED:
                    self.stack.append(_PUSHED[name])
                else:
                    self._step(name, argument)
        except (IndexError, KeyError) as error:
            raise UnsoundError("its pickle takes more than it holds") from error

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_Value("name", name=".".join(argument.split(" "))))
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name == "TUPLE":
            self._tuple(self._marked())
        elif name in _TUPLES:
            items = stack[-_TUPLES[name] :]
            del stack[-_TUPLES[name] :]
            self._tuple(items)
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_called(stack.pop(), arguments))
        elif name not in ("PROTO", "STOP"):
            self._fill(name)

    def _fill(self, name: str) -> None:
        """Operations that put what lies on top into the list or dictionary under it."""
        several = name in ("APPENDS", "SETITEMS")
        if name not in ("APPEND", "SETITEM", "BUILD") and not several:
            raise UnsoundError(f"its pickle has {name}, which torch.save does not write")
        items = self._marked() if several else [self.stack.pop() for _ in range(2 if name == "SETITEM" else 1)][::-1]
        wanted = "list" if name.startswith("APPEND") else "dict"
        if self.stack[-1].kind != wanted or (name == "BUILD" and items[0].kind != "dict"):
            raise UnsoundError(f"its pickle fills a {self.stack[-1].kind} as a {wanted}")
        if name.startswith("SETITEM"):
            for key in items[::2]:
                _check_key(key)

    def _marked(self) -> list[_Value]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _tuple(self, items: Sequence[_Value]) -> None:
        size = min(1 + sum(item.size for item in items), 2**31)
        self.stack.append(_Value("tuple", size, tuple(items) if len(items) <= MOST_IN_CALL else ()))


def _storage(identity: _Value) -> _Value:
    """("storage", class, key, device, entries): what stands for the numbers of a tensor."""
    kinds = [item.kind for item in identity.items]
    if identity.kind != "tuple" or kinds != ["scalar", "name", "scalar", "scalar", "scalar"]:
        raise UnsoundError("its tensors are not described as torch.save does")
    return _STORAGE


def _called(function: _Value, arguments: _Value) -> _Value:
    if function.kind != "name" or function.name not in _CALLED or arguments.kind != "tuple":
        raise UnsoundError("its pickle calls what torch.save does not call")
    if arguments.size > MOST_IN_CALL or "list" in {item.kind for item in _flat(arguments)}:
        raise UnsoundError("its pickle calls with more than torch.save gives")
    if function.name == "collections.OrderedDict":
        if arguments.size > 1:
            raise UnsoundError("its pickle calls with more than torch.save gives")
        return _DICT
    return _OTHER


def _flat(value: _Value) -> Iterator[_Value]:
    """A tuple and what lies in it, of a size that was checked."""
    left = [value]
    while left:
        yield (found := left.pop())
        left += found.items


def _check_key(key: _Value) -> None:
    if key.size > MOST_IN_KEY or any(item.kind not in ("scalar", "tuple", "name", "other") for item in _flat(key)):
        raise UnsoundError("its pickle has keys that are no names")
