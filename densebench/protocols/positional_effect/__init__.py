"""How much cluster maps depend on position."""
