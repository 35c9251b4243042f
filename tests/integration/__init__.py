"""Several parts together, on real Postgres and real Valkey."""
