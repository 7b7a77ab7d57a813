-- What a session's outbound.db looked like when everything in it had been dealt with: a start need not open it then.
CREATE TABLE settled_sessions (
  session_id TEXT PRIMARY KEY REFERENCES sessions(id) ON DELETE CASCADE,
  stamp      TEXT NOT NULL
) STRICT;
