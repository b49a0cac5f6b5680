"""What instances remember together: one SQLite database for all of them, with search, links and vectors."""
