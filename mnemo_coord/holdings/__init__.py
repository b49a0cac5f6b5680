"""What an instance holds and the kernel frees at its death: claims, owner locks, ports."""
