"""LLVM code from captured graphs."""
