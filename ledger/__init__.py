"""Credits: pure money rules, the SQL store, the transparency log and the client."""
