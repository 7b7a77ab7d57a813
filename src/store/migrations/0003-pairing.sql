-- One-time codes with which a person claims ownership from a chat.
CREATE TABLE pairing_codes (
  code       TEXT PRIMARY KEY,
  created_at TEXT NOT NULL,
  expires_at TEXT NOT NULL,
  used_by    TEXT,
  used_at    TEXT
) STRICT;
