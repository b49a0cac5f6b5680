"""The command `mnemosyne`: it parses, calls, renders, and is the only part that prints and exits."""
