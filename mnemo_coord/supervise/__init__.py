"""Child processes. Only this folder starts them."""
