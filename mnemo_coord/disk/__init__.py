"""The ground floor: the only code that touches files. What lies where on disk is written down by the room that owns it."""
