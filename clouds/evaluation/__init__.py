"""Evaluation: confusion matrices, protocols, and reports per domain as text, JSON and HTML."""
