"""Literal transcriptions of published equations: the independent side of the tests.

They import NumPy and the standard library alone, work in float64 and loop over time and samples
as the equations do. One sequence is x (T, D); `batch.over_batch` runs a batch (T, B, D) row by
row. Matrices stand as in the book, rows = outputs: U (H, D) on the input, W (H, H) on the state,
V (V, H) to the output; `packing` translates to and from (in, out) arrays with gates side by side.
"""
