"""Metrics: one number per problem."""
