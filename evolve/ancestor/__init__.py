"""The ancestor: an Avalanche strategy learns the tasks of a stream, one after another."""
