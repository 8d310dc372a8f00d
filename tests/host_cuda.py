"""CUDA C on the host: a C++ compiler makes a library of the source text, and threads of one block.

A launch runs its blocks one after another, each with one thread. Under `threads` it is up to two
times four, which meet at __syncthreads as on a GPU; kernels take any number in their place.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMPILER = shutil.which("g++") or shutil.which("c++")

HEAD = """\
#include <cmath>
#include <cstring>
#ifdef THREADS
#include <barrier>
#include <thread>
#include <vector>
#endif
#define __global__
#define __device__
#define __shared__ static
struct Three { unsigned int x, y, z; };
static Three blockDim, gridDim;
static thread_local Three blockIdx, threadIdx;
#ifdef THREADS
static std::barrier<>* meeting;
static void __syncthreads() { meeting->arrive_and_wait(); }
#else
static void __syncthreads() {}
#endif
static double __longlong_as_double(unsigned long long bits) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}
"""
RUN = """\
static double real(long long bits) { return __longlong_as_double(bits); }
static void run(
    void (*f)(const long long*), const long long* a, unsigned grid, unsigned x, unsigned y)
{
#ifdef THREADS
    grid = x > 1 ? (grid * x + 1) / 2 : grid;
    x = x > 1 ? 2 : 1;
    y = y > 1 ? 4 : 1;
    gridDim = {grid, 1, 1};
    blockDim = {x, y, 1};
    std::barrier<> all(x * y);
    meeting = &all;
    for (unsigned b = 0; b < grid; ++b) {
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < x * y; ++i)
            threads.emplace_back([=] {
                blockIdx = {b, 0, 0};
                threadIdx = {i % x, i / x, 0};
                f(a);
            });
        for (auto& thread : threads) thread.join();
    }
#else
    gridDim = {grid * x, 1, 1};
    blockDim = {1, 1, 1};
    for (unsigned b = 0; b < grid * x; ++b) {
        blockIdx = {b, 0, 0};
        f(a);
    }
#endif
}
"""
LAUNCH = """\
static void {0}_{1}(const long long* a) {{ {0}::{1}({2}); }}
extern "C" void launch_{0}_{1}(const long long* a, unsigned grid, unsigned x, unsigned y) {{
    run({0}_{1}, a, grid, x, y);
}}
"""
KERNEL = re.compile(r"__global__ void (\w+)\(([^)]*)\)")
THREADS = ("-DTHREADS", "-std=c++20", "-pthread")
options: tuple[str, ...] = ()


@contextlib.contextmanager
def threads() -> Iterator[None]:
    """Blocks of modules made inside have several threads."""
    global options
    options = THREADS
    try:
        yield
    finally:
        options = ()


def compiled(text: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The loaded library of a C++ text."""
    if COMPILER is None:
        raise RuntimeError("no C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        path.write_text(text, encoding="utf-8")
        flags = ["-std=c++17", "-O0", "-w", "-fwrapv", "-fPIC", "-shared", *options]
        command = [COMPILER, *flags, str(path), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{done.stderr}\n{text}")
        return ctypes.CDLL(str(made))


def argument(place: int, parameter: str) -> str:
    """An argument, which came as 64 bits, as a parameter of some type takes it."""
    kind = parameter.strip().rpartition(" ")[0]
    return f"real(a[{place}])" if kind == "const double" else f"({kind})a[{place}]"


class RawModule:
    """CuPy's, compiled for the host at its first launch, with all that wait for theirs."""

    waiting: list[RawModule] = []  # noqa: RUF012
    count = 0

    def __init__(self, *, code: str) -> None:
        RawModule.count += 1
        self.name = f"module{self.count}"
        self.code, self.options = code, options
        self.shared: Any = None
        self.waiting.append(self)

    def load(self) -> None:
        modules = [module for module in self.waiting if module.options == self.options]
        text = [HEAD, RUN]
        for module in modules:
            code = module.code.replace('extern "C" __global__', "__global__")
            text.append(f"namespace {module.name} {{\n{code}\n}}")
            for name, parameters in KERNEL.findall(code):
                given = ", ".join(map(argument, range(1000), parameters.split(",")))
                text.append(LAUNCH.format(module.name, name, given))
        shared = compiled("\n".join(text), self.options)
        for module in modules:
            module.shared = shared
            self.waiting.remove(module)

    def get_function(self, name: str) -> Any:
        def launch(grid: tuple[int], block: tuple[int, int], args: tuple[Any, ...]) -> None:
            if self.shared is None:
                self.load()
            slots = [
                ctypes.c_double(x) if isinstance(x, float) else ctypes.c_longlong(x) for x in args
            ]
            packed = (ctypes.c_longlong * len(slots)).from_buffer_copy(b"".join(map(bytes, slots)))
            self.shared[f"launch_{self.name}_{name}"](packed, *grid, *block)

        return launch
