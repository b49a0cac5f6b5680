"""What the instances say to each other: messages, the mailboxes they wait in, and sending and receiving them."""
