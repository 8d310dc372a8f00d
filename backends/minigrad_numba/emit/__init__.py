"""Captured programs as native code: LLVM IR built with llvmlite, compiled once, kept on disk."""
