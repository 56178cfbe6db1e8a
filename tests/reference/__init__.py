"""Slow, plain transcriptions of published algorithms, against which the package is tested."""
