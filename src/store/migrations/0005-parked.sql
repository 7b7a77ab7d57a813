-- Messages for sessions whose inbound.db could not be written: accepted, and written there as soon as that works.
CREATE TABLE parked_messages (
  id           INTEGER PRIMARY KEY,
  session_id   TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
  message_id   TEXT NOT NULL,
  kind         TEXT NOT NULL,
  timestamp    TEXT NOT NULL,
  wakes        INTEGER NOT NULL,
  channel_type TEXT,
  platform_id  TEXT,
  thread_id    TEXT,
  content      TEXT NOT NULL
) STRICT;
CREATE INDEX idx_parked_messages_session ON parked_messages(session_id);
