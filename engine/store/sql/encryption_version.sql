-- Another number after every change of a key or of the switch of a project.
SELECT version FROM encryption_version
