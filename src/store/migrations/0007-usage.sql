-- The seq of the last row that was counted here: a row that is read again counts once.
ALTER TABLE usage ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0;
