"""Attacks on models of tokens."""
