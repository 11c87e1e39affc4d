"""How well copies are found."""
