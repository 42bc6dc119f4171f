"""How a group of descendants trains: plain, fused or captured in graphs."""
