"""What every room uses: settings, TOML, registry, errors, named randomness, whole writes."""
