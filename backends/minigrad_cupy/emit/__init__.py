"""CUDA programs: captured graphs as kernels of C source text, launched one after another."""
