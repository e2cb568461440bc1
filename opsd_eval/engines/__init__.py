"""Engines that generate: token ids in, token ids out."""
