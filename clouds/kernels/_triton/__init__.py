"""Triton kernels, imported only for a launch, so that the rest of the library works without Triton."""
