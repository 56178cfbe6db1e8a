"""Defenses of the update that the attacker knows: what they leave exactly, how likely the rest is, and the best guess.

`clipped`, `leftover` and `rescaling` take off what can be taken off exactly; `likelihood`, `natural_images` and
`posterior` weigh what is left; `most_probable` searches. Modules are imported one by one, since the first three serve
attacks that the last one is built on.
"""
