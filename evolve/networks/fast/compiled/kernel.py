"""Kernels by their shape: compiled once a process, and kept on disk from one process to the next.

Machine code lies under $XDG_CACHE_HOME/evolve/kernels (~/.cache by default), named after all that
made it. Where nothing can be kept there, or another user might have written it, every process
compiles for itself.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import torch

from evolve.core.durable import digest, user_cache, write_whole
from evolve.core.errors import UserError
from evolve.core.private import is_private, make_private, read_private
from evolve.networks.fast.compiled import emit as emitting
from evolve.networks.fast.compiled.emit import Code, machine

Kernel = Callable[..., None]
"""Takes addresses (of numbers that lie as the kernel's docstring says) and integers.

Others may run Python meanwhile.
"""
_ONE_AT_A_TIME = threading.Lock()  # LLVM's engine is not made for several threads


def kernel(arguments: str) -> Callable[[Callable[..., None]], Callable[..., Kernel]]:
    """A decorator for a function that emits code for a shape, ``emit(code, *shape, dtype)``.

    It becomes one that gives the kernel, ``kernel_of(*shape, dtype)``.

    Args:
        arguments: the kernel's, as :class:`Code` names them.
    """

    def decorated(emit: Callable[..., None]) -> Callable[..., Kernel]:
        @wraps(emit)
        @cache
        def kernel_of(*shape: int | torch.dtype) -> Kernel:
            *_, dtype = shape
            assert isinstance(dtype, torch.dtype)

            what = f"{emit.__name__} {shape} {emitting.processor()}"
            name = f"{emit.__name__}_{digest(what.encode())[:32]}"

            def compiled() -> bytes:
                code = Code(name, arguments, dtype)
                emit(code, *shape)
                return code.machine_code()

            with _ONE_AT_A_TIME:
                _engine().add_object_file(llvm.ObjectFileRef.from_data(_kept(name, compiled)))
                _engine().finalize_object()
                address = _engine().get_function_address(name)
            kinds = [ctypes.c_void_p if kind == "p" else ctypes.c_int64 for kind in arguments]
            return ctypes.CFUNCTYPE(None, *kinds)(address)

        return kernel_of

    return decorated


@lru_cache(maxsize=1)
def _engine() -> Any:
    """Holds the code of all kernels, as long as the process lives."""
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine())


def _kept(name: str, compiled: Callable[[], bytes]) -> bytes:
    """The code that is kept as ``name``, or newly compiled.

    A file that is not whole is made anew.
    """
    folder = _folder()
    if folder is None:
        return compiled()
    path = folder / f"{name}.o"
    with suppress(OSError):
        check, _, held = read_private(path).partition(b"\n")
        if digest(name.encode() + held).encode() == check:
            return held
    code = compiled()
    with suppress(UserError, OSError):
        if is_private(folder):
            content = digest(name.encode() + code).encode() + b"\n" + code
            os.chmod(write_whole(path, content, "compiled kernel"), 0o600)
    return code


@lru_cache(maxsize=1)
def _folder() -> Path | None:
    """Where code of this version for this processor is kept; None where it cannot be.

    Whether others can write there is asked at every reading.
    """
    about = (
        llvmlite.__version__,
        llvm.llvm_version_info,
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
    )
    maker = hashlib.sha256(str(about).encode())
    maker.update(llvm.get_host_cpu_features().flatten().encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        maker.update(source.read_bytes())
    with suppress(OSError, UserError):  # no home
        folder = user_cache() / "kernels" / maker.hexdigest()[:16]
        make_private(folder)
        return folder
    return None
