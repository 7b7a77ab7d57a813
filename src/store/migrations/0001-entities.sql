-- NanoClaw v2's tables: its names and columns, so that its v2.db is imported by copying rows.
-- What it left to good manners is a constraint here. Times are ISO-8601 text in UTC.

CREATE TABLE agent_groups (
  id             TEXT PRIMARY KEY
                 CHECK (length(id) <= 50 AND id GLOB '[a-z]*' AND id NOT GLOB '*[^a-z0-9-]*'),
  name           TEXT NOT NULL,
  folder         TEXT NOT NULL UNIQUE
                 CHECK (length(folder) <= 64 AND folder GLOB '[A-Za-z0-9]*' AND folder NOT GLOB '*[^A-Za-z0-9_-]*'),
  agent_provider TEXT,
  created_at     TEXT NOT NULL
) STRICT;

CREATE TABLE messaging_groups (
  id                    TEXT PRIMARY KEY,
  channel_type          TEXT NOT NULL,
  platform_id           TEXT NOT NULL,
  name                  TEXT,
  is_group              INTEGER NOT NULL DEFAULT 0 CHECK (is_group IN (0, 1)),
  unknown_sender_policy TEXT NOT NULL DEFAULT 'strict'
                        CHECK (unknown_sender_policy IN ('strict', 'request_approval', 'public')),
  denied_at             TEXT,
  created_at            TEXT NOT NULL,
  UNIQUE (channel_type, platform_id)
) STRICT;

CREATE TABLE messaging_group_agents (
  id                     TEXT PRIMARY KEY,
  messaging_group_id     TEXT NOT NULL REFERENCES messaging_groups(id),
  agent_group_id         TEXT NOT NULL REFERENCES agent_groups(id),
  engage_mode            TEXT NOT NULL CHECK (engage_mode IN ('pattern', 'mention', 'mention-sticky')),
  engage_pattern         TEXT CHECK (engage_mode <> 'pattern' OR coalesce(engage_pattern, '') <> ''),
  sender_scope           TEXT NOT NULL DEFAULT 'all' CHECK (sender_scope IN ('all', 'known')),
  ignored_message_policy TEXT NOT NULL DEFAULT 'drop' CHECK (ignored_message_policy IN ('drop', 'accumulate')),
  session_mode           TEXT NOT NULL DEFAULT 'shared'
                         CHECK (session_mode IN ('shared', 'per-thread', 'agent-shared')),
  priority               INTEGER NOT NULL DEFAULT 0,
  created_at             TEXT NOT NULL,
  UNIQUE (messaging_group_id, agent_group_id)
) STRICT;
CREATE INDEX idx_wirings_agent_group ON messaging_group_agents(agent_group_id);

CREATE TABLE users (
  id           TEXT PRIMARY KEY,
  kind         TEXT NOT NULL,
  display_name TEXT,
  created_at   TEXT NOT NULL
) STRICT;

-- No primary key: SQLite takes every NULL for a different value, and a global role has a NULL group.
CREATE TABLE user_roles (
  user_id        TEXT NOT NULL REFERENCES users(id),
  role           TEXT NOT NULL CHECK (role IN ('owner', 'admin')),
  agent_group_id TEXT REFERENCES agent_groups(id) CHECK (role <> 'owner' OR agent_group_id IS NULL),
  granted_by     TEXT REFERENCES users(id) ON DELETE SET NULL,
  granted_at     TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX idx_user_roles_key ON user_roles(user_id, role, coalesce(agent_group_id, ''));
CREATE INDEX idx_user_roles_scope ON user_roles(agent_group_id, role);

CREATE TABLE agent_group_members (
  user_id        TEXT NOT NULL REFERENCES users(id),
  agent_group_id TEXT NOT NULL REFERENCES agent_groups(id),
  added_by       TEXT REFERENCES users(id) ON DELETE SET NULL,
  added_at       TEXT NOT NULL,
  PRIMARY KEY (user_id, agent_group_id)
) STRICT;

CREATE TABLE user_dms (
  user_id            TEXT NOT NULL REFERENCES users(id),
  channel_type       TEXT NOT NULL,
  messaging_group_id TEXT NOT NULL REFERENCES messaging_groups(id),
  resolved_at        TEXT NOT NULL,
  PRIMARY KEY (user_id, channel_type)
) STRICT;

CREATE TABLE agent_destinations (
  agent_group_id TEXT NOT NULL REFERENCES agent_groups(id),
  local_name     TEXT NOT NULL CHECK (local_name <> '' AND local_name NOT GLOB '*[^a-z0-9-]*'),
  target_type    TEXT NOT NULL CHECK (target_type IN ('channel', 'agent')),
  target_id      TEXT NOT NULL,
  created_at     TEXT NOT NULL,
  PRIMARY KEY (agent_group_id, local_name)
) STRICT;
CREATE INDEX idx_agent_dest_target ON agent_destinations(target_type, target_id);

CREATE TABLE sessions (
  id                 TEXT PRIMARY KEY,
  agent_group_id     TEXT NOT NULL REFERENCES agent_groups(id),
  messaging_group_id TEXT REFERENCES messaging_groups(id),
  thread_id          TEXT,
  agent_provider     TEXT,
  status             TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'closed')),
  container_status   TEXT NOT NULL DEFAULT 'stopped' CHECK (container_status IN ('stopped', 'running', 'idle')),
  last_active        TEXT,
  created_at         TEXT NOT NULL
) STRICT;
CREATE INDEX idx_sessions_agent_group ON sessions(agent_group_id);
CREATE INDEX idx_sessions_lookup ON sessions(messaging_group_id, thread_id);

CREATE TABLE container_configs (
  agent_group_id          TEXT PRIMARY KEY REFERENCES agent_groups(id) ON DELETE CASCADE,
  provider                TEXT,
  model                   TEXT,
  effort                  TEXT,
  image_tag               TEXT,
  assistant_name          TEXT,
  max_messages_per_prompt INTEGER CHECK (max_messages_per_prompt > 0),
  skills                  TEXT NOT NULL DEFAULT '"all"' CHECK (json_valid(skills)),
  mcp_servers             TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(mcp_servers)),
  packages_apt            TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(packages_apt)),
  packages_npm            TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(packages_npm)),
  additional_mounts       TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(additional_mounts)),
  cli_scope               TEXT NOT NULL DEFAULT 'group' CHECK (cli_scope IN ('disabled', 'group', 'global')),
  updated_at              TEXT NOT NULL
) STRICT;

CREATE TABLE pending_questions (
  question_id    TEXT PRIMARY KEY,
  session_id     TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
  message_out_id TEXT NOT NULL,
  platform_id    TEXT,
  channel_type   TEXT,
  thread_id      TEXT,
  title          TEXT NOT NULL,
  options_json   TEXT NOT NULL CHECK (json_valid(options_json)),
  created_at     TEXT NOT NULL
) STRICT;
CREATE INDEX idx_pending_questions_session ON pending_questions(session_id);

CREATE TABLE pending_approvals (
  approval_id         TEXT PRIMARY KEY,
  session_id          TEXT REFERENCES sessions(id) ON DELETE CASCADE,
  request_id          TEXT NOT NULL,
  action              TEXT NOT NULL,
  payload             TEXT NOT NULL CHECK (json_valid(payload)),
  created_at          TEXT NOT NULL,
  agent_group_id      TEXT REFERENCES agent_groups(id),
  channel_type        TEXT,
  platform_id         TEXT,
  platform_message_id TEXT,
  expires_at          TEXT,
  status              TEXT NOT NULL DEFAULT 'pending'
                      CHECK (status IN ('pending', 'approved', 'rejected', 'expired')),
  title               TEXT NOT NULL DEFAULT '',
  options_json        TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(options_json))
) STRICT;
CREATE INDEX idx_pending_approvals_status ON pending_approvals(status, action);
CREATE INDEX idx_pending_approvals_session ON pending_approvals(session_id);

CREATE TABLE pending_sender_approvals (
  id                 TEXT PRIMARY KEY,
  messaging_group_id TEXT NOT NULL REFERENCES messaging_groups(id),
  agent_group_id     TEXT NOT NULL REFERENCES agent_groups(id),
  sender_identity    TEXT NOT NULL,
  sender_name        TEXT,
  original_message   TEXT NOT NULL CHECK (json_valid(original_message)),
  approver_user_id   TEXT NOT NULL,
  title              TEXT NOT NULL DEFAULT '',
  options_json       TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(options_json)),
  created_at         TEXT NOT NULL,
  UNIQUE (messaging_group_id, sender_identity)
) STRICT;

CREATE TABLE pending_channel_approvals (
  messaging_group_id TEXT PRIMARY KEY REFERENCES messaging_groups(id),
  agent_group_id     TEXT NOT NULL REFERENCES agent_groups(id),
  original_message   TEXT NOT NULL CHECK (json_valid(original_message)),
  approver_user_id   TEXT NOT NULL,
  title              TEXT NOT NULL DEFAULT '',
  options_json       TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(options_json)),
  created_at         TEXT NOT NULL
) STRICT;

CREATE TABLE unregistered_senders (
  channel_type       TEXT NOT NULL,
  platform_id        TEXT NOT NULL,
  user_id            TEXT,
  sender_name        TEXT,
  reason             TEXT NOT NULL,
  messaging_group_id TEXT,
  agent_group_id     TEXT,
  message_count      INTEGER NOT NULL DEFAULT 1,
  first_seen         TEXT NOT NULL,
  last_seen          TEXT NOT NULL,
  PRIMARY KEY (channel_type, platform_id)
) STRICT;
