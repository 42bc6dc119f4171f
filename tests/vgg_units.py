"""A VGG's unit by the names of its tensors, and the paper's set of layers (section 5.1).

They stand here as literals, so that a test has something to hold the code to.
"""

PARTS = (
    "conv.weight",
    "conv.bias",
    "bn.weight",
    "bn.bias",
    "bn.running_mean",
    "bn.running_var",
    "bn.num_batches_tracked",
)
PAPER = ("conv1", "conv11", "conv12", "conv13")
