"""The processor that code is made for: its features, vector width, and LLVM's passes for it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from llvmlite import binding, ir

binding.initialize_all_targets()
binding.initialize_all_asmprinters()


@dataclass(frozen=True)
class Target:
    """A processor as LLVM names it: triple, processor, `+feature,-feature`."""

    triple: str
    cpu: str
    features: str

    def has(self, *features: str) -> bool:
        listed = self.features.split(",")
        return all(f"+{feature}" in listed for feature in features)

    @property
    def arm(self) -> bool:
        return self.triple.startswith(("aarch64", "arm64"))

    @property
    def lanes(self) -> int:
        """float32 values in one vector register."""
        if self.has("avx512f"):
            return 16
        return 8 if self.has("avx2", "fma") else 4

    @property
    def fma(self) -> bool:
        """Whether a multiplication and an addition are one instruction with one rounding."""
        return self.arm or self.has("fma") or self.has("avx512f")

    @property
    def registers(self) -> int:
        """Vector registers there are."""
        return 32 if self.arm or self.has("avx512f") else 16

    def machine(self, jit: bool = False, level: int = 3) -> binding.TargetMachine:
        """A new target machine; an execution engine takes the one that it is given."""
        wide = ",-prefer-256-bit" if self.has("avx512f") else ""
        return binding.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu,
            features=self.features + wide,
            opt=level,
            reloc="default" if self.arm else "static",
            codemodel="jitdefault",
            jit=jit,
        )


@functools.cache
def host() -> Target:
    """The processor that this process runs on."""
    return Target(
        binding.get_process_triple(),
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
    )


def optimise(
    module: ir.Module | str, target: Target | None = None, level: int = 3
) -> binding.ModuleRef:
    """Verify a module and run LLVM's passes over it, but for those that make vectors of loops."""
    target = target or host()
    machine = target.machine()
    parsed = binding.parse_assembly(str(module))
    parsed.triple = machine.triple
    parsed.data_layout = str(machine.target_data)
    parsed.verify()
    options = binding.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = False  # half the code, as fast
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    return parsed
