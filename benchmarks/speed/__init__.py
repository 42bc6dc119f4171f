"""`evolve bench`: our training against a plain PyTorch or Avalanche loop.

Both run in interleaved rounds on the same machine.

``cases`` says what is measured, ``plain_*`` are the baselines, ``ours`` calls the public functions
as the engine does, ``processes`` holds both sides ready, ``rounds`` takes them in turn, ``report``
prints and writes.
"""
