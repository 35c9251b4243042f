-- Refused rows alone: others are jobs that somebody was promised.
DELETE FROM inbox WHERE id = ANY ($1::uuid[]) AND refused_at IS NOT NULL
