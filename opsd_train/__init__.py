"""Standard and purified on-policy self-distillation, side by side."""
