"""Native programs: captured graphs as LLVM code, kept on disk, run by threads."""
