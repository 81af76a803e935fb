"""The transparency log in the database."""
