-- What this host remembers beyond NanoClaw v2.

-- NULL: the host's default.
ALTER TABLE container_configs ADD COLUMN memory TEXT;
ALTER TABLE container_configs ADD COLUMN cpus TEXT;
ALTER TABLE container_configs ADD COLUMN pids INTEGER CHECK (pids > 0);
ALTER TABLE container_configs ADD COLUMN network TEXT CHECK (network IN ('none', 'bridge'));
INSERT INTO container_configs (agent_group_id, updated_at)
  SELECT id, created_at FROM agent_groups WHERE id NOT IN (SELECT agent_group_id FROM container_configs);

ALTER TABLE pending_questions ADD COLUMN expires_at TEXT;
ALTER TABLE pending_approvals ADD COLUMN approver_user_id TEXT;
ALTER TABLE pending_approvals ADD COLUMN decided_by TEXT;
ALTER TABLE pending_approvals ADD COLUMN decided_at TEXT;
ALTER TABLE pending_sender_approvals ADD COLUMN platform_message_id TEXT;
ALTER TABLE pending_sender_approvals ADD COLUMN expires_at TEXT;
ALTER TABLE pending_channel_approvals ADD COLUMN platform_message_id TEXT;
ALTER TABLE pending_channel_approvals ADD COLUMN expires_at TEXT;

CREATE TABLE container_runs (
  id             TEXT PRIMARY KEY,
  session_id     TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
  container_name TEXT NOT NULL UNIQUE,
  container_id   TEXT,
  image          TEXT NOT NULL,
  started_at     TEXT NOT NULL,
  start_reason   TEXT NOT NULL CHECK (start_reason IN ('message', 'task', 'retry', 'restart', 'manual')),
  ended_at       TEXT,
  end_reason     TEXT CHECK (end_reason IN ('exited', 'crashed', 'oom', 'evicted', 'stuck', 'stopped',
                                            'vanished', 'start-failed')),
  exit_code      INTEGER,
  oom            INTEGER NOT NULL DEFAULT 0 CHECK (oom IN (0, 1)),
  CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) STRICT;
CREATE INDEX idx_container_runs_session ON container_runs(session_id, started_at);
CREATE INDEX idx_container_runs_open ON container_runs(id) WHERE ended_at IS NULL;

CREATE TABLE due (
  session_id  TEXT PRIMARY KEY REFERENCES sessions(id) ON DELETE CASCADE,
  next_due_at TEXT NOT NULL
) STRICT;

CREATE TABLE host_outbox (
  seq                 INTEGER PRIMARY KEY,
  id                  TEXT NOT NULL UNIQUE,
  channel_type        TEXT NOT NULL,
  platform_id         TEXT NOT NULL,
  thread_id           TEXT,
  kind                TEXT NOT NULL CHECK (kind IN ('chat', 'chat-sdk', 'system')),
  content             TEXT NOT NULL CHECK (json_valid(content)),
  created_at          TEXT NOT NULL,
  deliver_after       TEXT,
  attempts            INTEGER NOT NULL DEFAULT 0,
  next_attempt_at     TEXT,
  last_error          TEXT,
  status              TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
  platform_message_id TEXT,
  dedup_key           TEXT UNIQUE
) STRICT;
CREATE INDEX idx_host_outbox_pending ON host_outbox(seq) WHERE status = 'pending';

CREATE TABLE channel_cursors (
  channel_account TEXT PRIMARY KEY,
  cursor          TEXT NOT NULL,
  updated_at      TEXT NOT NULL
) STRICT;

CREATE TABLE task_runs (
  session_id TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
  message_id TEXT NOT NULL,
  series_id  TEXT NOT NULL,
  started_at TEXT NOT NULL,
  ended_at   TEXT,
  outcome    TEXT NOT NULL CHECK (outcome IN ('running', 'completed', 'failed', 'skipped')),
  detail     TEXT,
  PRIMARY KEY (session_id, message_id)
) STRICT;
CREATE INDEX idx_task_runs_series ON task_runs(series_id, started_at);

-- No reference to sessions: what was spent stays spent when they are deleted.
CREATE TABLE usage (
  session_id         TEXT NOT NULL,
  day                TEXT NOT NULL,
  provider           TEXT NOT NULL,
  model              TEXT NOT NULL,
  agent_group_id     TEXT NOT NULL,
  turns              INTEGER NOT NULL,
  input_tokens       INTEGER NOT NULL,
  output_tokens      INTEGER NOT NULL,
  cache_read_tokens  INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  cost_microusd      INTEGER NOT NULL,
  PRIMARY KEY (session_id, day, provider, model)
) STRICT;
CREATE INDEX idx_usage_day ON usage(day);

CREATE TABLE decisions (
  seq            INTEGER PRIMARY KEY,
  message_id     TEXT NOT NULL,
  at             TEXT NOT NULL,
  channel_type   TEXT NOT NULL,
  platform_id    TEXT NOT NULL,
  thread_id      TEXT,
  sender_id      TEXT,
  agent_group_id TEXT,
  reason         TEXT NOT NULL,
  detail         TEXT
) STRICT;
CREATE INDEX idx_decisions_message ON decisions(message_id);

CREATE TABLE gateway_tokens (
  token          TEXT PRIMARY KEY,
  session_id     TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
  container_name TEXT NOT NULL,
  created_at     TEXT NOT NULL
) STRICT;
CREATE INDEX idx_gateway_tokens_container ON gateway_tokens(container_name);
