"""Postgres: the pool, the migrations, the named SQL, one repository per aggregate."""
