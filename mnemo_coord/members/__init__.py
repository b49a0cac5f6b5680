"""Who is here: identities, registrations, heartbeats, the verdict on each instance, and the clearing away of the dead."""
