CALL inbox_allow($1, $2)
