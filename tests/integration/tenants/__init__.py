"""Tenants: organisations, projects and API keys, and that nobody sees what is another's."""
