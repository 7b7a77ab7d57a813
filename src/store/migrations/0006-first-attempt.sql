-- Since when a message is tried in vain: it is given up for its age.
ALTER TABLE host_outbox ADD COLUMN first_attempt_at TEXT;
