"""Triton kernels. Only imported when one is launched: every other part of the library works where Triton is missing."""
