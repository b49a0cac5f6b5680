"""Named instances and their isolation: what a project consists of, and what each checkout of it gets for itself."""
