"""A device that is none: tensors that lie on the CPU, but say that they are on a GPU and refuse to meet other ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU, PRETENDED = torch.device("cpu"), torch.device("cuda:0")
#: arguments of the operators that are tables, which stay on the CPU
TABLES = {"symmetric_product": (3, 4), "message": (7, 8)}
MAY_MEET = {"_has_compatible_shallow_copy_type", "copy_", "to", "__getitem__", "__setitem__", "type_as", "__set__"}
NEEDS_THE_CPU = {"numpy", "__array__", "data_ptr"}


class Distant(torch.Tensor):
    """A tensor of the pretended device."""

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = torch.nn.Parameter(copy) if isinstance(self, torch.nn.Parameter) else copy
        return memo[id(self)]


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


class PretendedDevice(TorchFunctionMode):
    """In a `with` block, `.to(PRETENDED)` and `device=PRETENDED` give Distant tensors, and so does what is computed of
    them; an operation on tensors of both places raises RuntimeError, as it would with a GPU."""

    def __enter__(self) -> PretendedDevice:
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # parameters become Distant themselves
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        torch.__future__.set_overwrite_module_params_on_conversion(False)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if func == torch.Tensor.device.__get__:
            return PRETENDED if isinstance(args[0], Distant) else CPU
        if func == torch.Tensor.is_cuda.__get__:
            return isinstance(args[0], Distant)
        if func in (torch.Tensor.cpu, torch.Tensor.cuda):
            func, args = torch.Tensor.to, (args[0], CPU if func is torch.Tensor.cpu else PRETENDED)
        if func is torch.Tensor.to and isinstance(args[1], str):
            args = (args[0], torch.device(args[1]), *args[2:])
        if name == "__deepcopy__" or not ("device" in kwargs or list(tensors_of([args, kwargs]))):
            return func(*args, **kwargs)
        distant = [isinstance(tensor, Distant) for tensor in self.compared(func, name, args, kwargs)]
        if any(distant) and not all(distant) and name not in MAY_MEET:
            raise RuntimeError(f"{name}: tensors on the CPU and on {PRETENDED}")
        if any(distant) and name in NEEDS_THE_CPU:
            raise TypeError(f"{name}: tensor on {PRETENDED}")
        target = self.target(func, args, kwargs, distant)
        args = tuple(CPU if isinstance(value, torch.device) else value for value in args)
        if "device" in kwargs:
            kwargs["device"] = CPU
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            return self.placed(result, target)

    @staticmethod
    def compared(func: Any, name: str, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """The tensors that must be in one place: a single number and the tables of our operators may be anywhere."""
        if "tesseral" in str(func):
            args = [value for index, value in enumerate(args) if index not in TABLES.get(name.split(".")[0], ())]
        return [tensor for tensor in tensors_of([args, kwargs]) if tensor.dim() > 0 or isinstance(tensor, Distant)]

    @staticmethod
    def target(func: Any, args: Any, kwargs: Any, distant: list[bool]) -> torch.device:
        """Where the result is."""
        named = [torch.device(v) for v in (*args, kwargs.get("device")) if isinstance(v, torch.device)]
        if named:
            return named[0]
        if func in (torch.Tensor.to, torch.Tensor.copy_, torch.Tensor.__getitem__):
            of = args[1] if func is torch.Tensor.to and isinstance(args[1], torch.Tensor) else args[0]
            return PRETENDED if isinstance(of, Distant) else CPU
        return PRETENDED if any(distant) else CPU

    def placed(self, result: Any, target: torch.device) -> Any:
        """The result with its tensors in their place."""
        if isinstance(result, torch.Tensor):
            kind = Distant if target.type == "cuda" else torch.Tensor
            same = isinstance(result, Distant) == (kind is Distant)
            return result if same else result.as_subclass(kind)
        if type(result) in (list, tuple):
            return type(result)(self.placed(value, target) for value in result)
        if isinstance(result, tuple):  # one with named fields
            return type(result)([self.placed(value, target) for value in result])
        return result
