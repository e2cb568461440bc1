"""Measure what self-distillation does to reasoning, from samples alone."""
