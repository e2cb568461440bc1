"""Scripts that regenerate every figure and table."""
