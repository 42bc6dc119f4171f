"""What the terminal shows while a run or a batch computes, and afterwards."""
