"""Few-shot learners (the paper's Table III): models and arrays in, arrays out. Nothing here knows a run, a store or a screen.

Kept empty so that ``evolve.fewshot.settings`` stays free of torch; :mod:`evolve.fewshot.measure` is the door.
"""
