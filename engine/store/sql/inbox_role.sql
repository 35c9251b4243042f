-- A role of the server; made by whoever runs it.
SELECT to_regrole(quote_ident($1)) IS NOT NULL
