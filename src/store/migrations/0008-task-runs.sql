-- A run is remembered when it is over, with the time it was planned for. Nothing was in here yet.
DROP TABLE task_runs;
CREATE TABLE task_runs (
  session_id TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
  message_id TEXT NOT NULL,
  series_id  TEXT NOT NULL,
  planned_at TEXT NOT NULL,
  ended_at   TEXT NOT NULL,
  outcome    TEXT NOT NULL CHECK (outcome IN ('completed', 'failed', 'skipped')),
  PRIMARY KEY (session_id, message_id)
) STRICT;
CREATE INDEX idx_task_runs_series ON task_runs(series_id, ended_at);
