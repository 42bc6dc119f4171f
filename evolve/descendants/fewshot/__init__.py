"""Few-shot learners (the paper's Table III): models and arrays in, arrays out.

Nothing here knows a run, a store or a screen. This file is kept empty so that the records in
``methods`` stay free of torch. :mod:`evolve.descendants.fewshot.measure` is the door.
"""
