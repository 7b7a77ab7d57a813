//! The rows of the old database, taken into the store one by one. Runs inside the caller's one
//! transaction.
//!
//! A broken row is written down and the next one is looked at, so that one run names them all; the
//! caller rolls back when there are any. What is only waiting or remembered (questions,
//! approvals, known direct chats, the audit) is dropped with a reason instead: it must not hold up
//! a move.

use std::collections::HashMap;

use jiff::Timestamp;

use super::report::{Account, Fate};
use crate::channel::cli::{CHANNEL, LOCAL_USER};
use crate::config::PROVIDERS;
use crate::store::{
    AgentGroup, Approval, ChannelApproval, ContainerConfig, ContainerStatus, Destination, DroppedSender, EngageMode,
    Ensured, Inserted, LegacyDb, LegacyDefault, LegacyWiring, Member, MessagingGroup, Question, Result, Role,
    RoleGrant, Row, SenderApproval, Session, Store, StoreError, Target, User, UserDm, Wiring, validate_agent_group_id,
};
use nanoclaw_session::layout::folder_name;
use nanoclaw_session::row::DestinationType;

/// Longest id of a session; it names a folder. bytes
const MAX_SESSION_ID_BYTES: usize = 100;

/// What came over.
#[derive(Debug, Default)]
pub struct Taken {
    pub tables: Vec<Account>,
    pub groups: Vec<AgentGroup>,
    pub sessions: Vec<Session>,
    pub notes: Vec<String>,
}

/// Whether a broken row stops the import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// It does.
    Essential,
    /// It is dropped.
    Passing,
}

struct Rows<'a> {
    source: &'a LegacyDb,
    store: &'a Store,
    now: Timestamp,
    taken: Taken,
    /// Ids of chats in the source, and what they are called in the home.
    chats: HashMap<String, String>,
}

/// Takes over every row of `source`. The report accounts for all of them.
///
/// # Errors
/// Faults of the databases themselves; those of rows are in the accounts.
pub fn take(source: &LegacyDb, store: &Store, now: Timestamp) -> Result<Taken> {
    let mut rows = Rows { source, store, now, taken: Taken::default(), chats: HashMap::new() };
    rows.agent_groups()?;
    rows.chats()?;
    rows.people()?;
    rows.wirings()?;
    rows.container_configs()?;
    rows.sessions()?;
    rows.waiting()?;
    rows.the_rest()?;
    Ok(rows.taken)
}

impl Rows<'_> {
    fn agent_groups(&mut self) -> Result<()> {
        self.each::<AgentGroup>(Weight::Essential, &[], |rows, group| {
            validate_agent_group_id(&group.id)?;
            if let Some(other) = rows.store.find_agent_group_by_folder(&group.folder)? {
                return Err(refused(&group, format!("its folder `{}` belongs to `{}` here", group.folder, other.id)));
            }
            rows.store.create_agent_group(&group)?;
            rows.note_provider(&group.name, group.agent_provider.as_deref());
            rows.taken.groups.push(group);
            Ok(Fate::Imported)
        })
    }

    fn chats(&mut self) -> Result<()> {
        let defaults = [("is_group", "0"), ("unknown_sender_policy", "'strict'")];
        self.each::<MessagingGroup>(Weight::Essential, &defaults, |rows, chat| {
            let (id, fate) = match rows.store.ensure_messaging_group(&chat)? {
                Ensured::Existing(existing) => (existing.id, Fate::AlreadyThere),
                Ensured::Created(created) => (created.id, Fate::Imported),
            };
            rows.chats.insert(chat.id, id);
            Ok(fate)
        })
    }

    /// Users, what they may do, and where they are reached. The person at this terminal owns the
    /// home as in any other.
    fn people(&mut self) -> Result<()> {
        self.each::<User>(Weight::Essential, &[], |rows, user| {
            if rows.store.find_user(&user.id)?.is_some() {
                return Ok(Fate::AlreadyThere);
            }
            rows.store.create_user(&user)?;
            Ok(Fate::Imported)
        })?;
        let local =
            User { id: LOCAL_USER.to_owned(), kind: CHANNEL.to_owned(), display_name: None, created_at: self.now };
        if let Ensured::Created(_) = self.store.ensure_user(&local)? {
            self.last_account().added += 1;
        }
        self.each::<RoleGrant>(Weight::Essential, &[], |rows, grant| rows.store.grant_role(&grant).map(fate))?;
        let owner = RoleGrant {
            user_id: local.id,
            role: Role::Owner,
            agent_group_id: None,
            granted_by: None,
            granted_at: self.now,
        };
        if self.store.grant_role(&owner)? == Inserted::New {
            self.last_account().added += 1;
        }
        self.each::<Member>(Weight::Essential, &[], |rows, member| rows.store.add_member(&member).map(fate))?;
        self.each::<UserDm>(Weight::Passing, &[], |rows, mut dm| {
            if rows.store.find_user_dm(&dm.user_id, &dm.channel_type)?.is_some() {
                return Ok(Fate::AlreadyThere);
            }
            dm.messaging_group_id = rows.chat(dm.messaging_group_id);
            rows.adopt(&dm)
        })
    }

    fn wirings(&mut self) -> Result<()> {
        // Without the table an agent may write to whom it hears; with it, a missing row is a refusal.
        let grants = self.source.has_column(Destination::TABLE, "local_name")?;
        let mut granted = 0;
        let put = |rows: &mut Self, mut wiring: Wiring| {
            wiring.messaging_group_id = rows.chat(wiring.messaging_group_id);
            if grants {
                return rows.adopt(&wiring);
            }
            if let Ensured::Created(_) = rows.store.create_wiring(&wiring)? {
                granted += 1;
            }
            Ok(Fate::Imported)
        };
        let shared = [("session_mode", "'shared'"), ("priority", "0")];
        if self.source.has_column(Wiring::TABLE, "engage_mode")? {
            let mut defaults = shared.to_vec();
            defaults.extend([
                ("engage_mode", "'mention'"),
                ("sender_scope", "'all'"),
                ("ignored_message_policy", "'drop'"),
            ]);
            let mut put = put;
            self.each::<Wiring>(Weight::Essential, &defaults, |rows, mut wiring| {
                let pattern = wiring.engage_pattern.as_deref().unwrap_or_default();
                if wiring.engage_mode == EngageMode::Pattern && pattern.is_empty() {
                    wiring.engage_pattern = Some(".".to_owned());
                }
                put(rows, wiring)
            })?;
        } else {
            let mut put = put;
            self.each::<LegacyWiring>(Weight::Essential, &shared, |rows, wiring| put(rows, wiring.into_wiring()))?;
        }
        self.each::<Destination>(Weight::Essential, &[], |rows, row| {
            let id = match row.target_type {
                DestinationType::Channel => rows.chat(row.target_id.clone()),
                DestinationType::Agent => row.target_id.clone(),
            };
            let target = match row.target_type {
                DestinationType::Channel => Target::Channel(&id),
                DestinationType::Agent => Target::Agent(&id),
            };
            let agent = &row.agent_group_id;
            let ours = match rows.store.grant_destination(agent, &row.local_name, target, row.created_at) {
                // A name that was legal there and is not here.
                Err(StoreError::Invalid { noun: Destination::NOUN, .. }) => {
                    let name = rows.store.free_local_name(agent, &row.local_name, "chat")?;
                    rows.taken.notes.push(format!("`{agent}` knows `{}` as `{name}` now", row.local_name));
                    rows.store.grant_destination(agent, &name, target, row.created_at)?
                }
                granted => granted?,
            };
            Ok(match ours {
                Ensured::Created(_) => Fate::Imported,
                Ensured::Existing(_) => Fate::AlreadyThere,
            })
        })?;
        self.last_account().added += granted;
        Ok(())
    }

    fn container_configs(&mut self) -> Result<()> {
        let has_scope = self.source.has_column(ContainerConfig::TABLE, "cli_scope")?;
        let defaults = [
            ("skills", "'\"all\"'"),
            ("mcp_servers", "'{}'"),
            ("packages_apt", "'[]'"),
            ("packages_npm", "'[]'"),
            ("additional_mounts", "'[]'"),
            ("cli_scope", "'group'"),
        ];
        self.each::<ContainerConfig>(Weight::Essential, &defaults, |rows, mut config| {
            let own = rows.store.container_config(&config.agent_group_id)?;
            if !rows.taken.groups.iter().any(|group| group.id == config.agent_group_id) {
                return Err(refused(&config, "it is of an agent group that does not come along"));
            }
            if !has_scope {
                config.cli_scope = own.cli_scope;
            }
            rows.note_provider(&config.agent_group_id, config.provider.as_deref());
            if !config.additional_mounts.is_empty() {
                let id = &config.agent_group_id;
                rows.taken.notes.push(format!("`{id}` has additional mounts; the mount allow-list decides about them"));
            }
            rows.store.put_container_config(&config)?;
            Ok(Fate::Imported)
        })?;
        let groups = self.taken.groups.len() as u64;
        let account = self.last_account();
        account.added = groups.saturating_sub(account.imported + account.refused);
        Ok(())
    }

    fn sessions(&mut self) -> Result<()> {
        let defaults = [("status", "'active'"), ("container_status", "'stopped'")];
        self.each::<Session>(Weight::Essential, &defaults, |rows, mut session| {
            let id = &session.id;
            if folder_name(id) != *id || id.len() > MAX_SESSION_ID_BYTES || id.starts_with('-') {
                return Err(refused(&session, "its id cannot name a folder"));
            }
            if !rows.taken.groups.iter().any(|group| group.id == session.agent_group_id) {
                return Err(refused(&session, "it is of an agent group that does not come along"));
            }
            session.messaging_group_id = session.messaging_group_id.map(|chat| rows.chat(chat));
            // Its container, if there is one, is the old install's.
            session.container_status = ContainerStatus::Stopped;
            rows.adopt(&session)?;
            rows.taken.sessions.push(session);
            Ok(Fate::Imported)
        })
    }

    /// What waits for a person, and the audit.
    fn waiting(&mut self) -> Result<()> {
        let card = [("title", "''"), ("options_json", "'[]'")];
        self.each::<Question>(Weight::Passing, &card, |rows, question| rows.adopt(&question))?;
        let mut approval = card.to_vec();
        approval.push(("status", "'pending'"));
        self.each::<Approval>(Weight::Passing, &approval, |rows, approval| rows.adopt(&approval))?;
        self.each::<SenderApproval>(Weight::Passing, &card, |rows, mut approval| {
            approval.messaging_group_id = rows.chat(approval.messaging_group_id);
            rows.adopt(&approval)
        })?;
        self.each::<ChannelApproval>(Weight::Passing, &card, |rows, mut approval| {
            approval.messaging_group_id = rows.chat(approval.messaging_group_id);
            rows.adopt(&approval)
        })?;
        self.each::<DroppedSender>(Weight::Passing, &[("message_count", "1")], |rows, mut dropped| {
            dropped.messaging_group_id = dropped.messaging_group_id.map(|chat| rows.chat(chat));
            rows.adopt(&dropped)
        })
    }

    /// Tables that do not come along.
    fn the_rest(&mut self) -> Result<()> {
        for (name, count) in self.source.tables()? {
            if self.taken.tables.iter().any(|account| account.name == name) {
                continue;
            }
            let reason = match name.as_str() {
                "schema_version" => "the history of the old schema; the home has its own",
                "pending_credentials" => "requests for credentials; an agent that needs one asks again",
                name if name.starts_with("chat_sdk_") => "state of the old chat bridge, which is not used here",
                _ => "this version has no such table",
            };
            let mut account = Account::new(name);
            account.drop_all(count, reason);
            self.taken.tables.push(account);
        }
        Ok(())
    }

    /// Puts every row of a table and accounts for it.
    fn each<T: Row>(
        &mut self,
        weight: Weight,
        defaults: &[LegacyDefault],
        mut put: impl FnMut(&mut Self, T) -> Result<Fate>,
    ) -> Result<()> {
        let mut account = Account::new(T::TABLE);
        for row in self.source.rows::<T>(defaults)? {
            let (name, outcome) = match row {
                Ok(row) => (row.name(), put(self, row)),
                Err(error) => (named(&error), Err(error)),
            };
            match outcome {
                Ok(fate) => account.count(fate),
                // The database's own faults are no row's.
                Err(error @ (StoreError::Sqlite(_) | StoreError::Io(_))) => return Err(error),
                Err(error) if weight == Weight::Passing => account.drop_row(name, error),
                Err(error) => account.refuse(name, error),
            }
        }
        self.taken.tables.push(account);
        Ok(())
    }

    fn adopt<T: Row>(&self, row: &T) -> Result<Fate> {
        self.store.adopt(row)?;
        Ok(Fate::Imported)
    }

    /// What a chat of the source is called in the home. One that is unknown keeps its id, and is
    /// refused where it is referred to.
    fn chat(&self, id: String) -> String {
        self.chats.get(&id).cloned().unwrap_or(id)
    }

    fn note_provider(&mut self, whose: &str, provider: Option<&str>) {
        if let Some(provider) = provider.filter(|name| !name.is_empty() && !PROVIDERS.contains(name)) {
            let known = PROVIDERS.join(", ");
            self.taken.notes.push(format!(
                "`{whose}` uses the provider `{provider}`, which this nanoclaw does not have (it has {known})"
            ));
        }
    }

    /// The account of the table that was done last.
    fn last_account(&mut self) -> &mut Account {
        self.taken.tables.last_mut().expect("a table was done before")
    }
}

fn fate(inserted: Inserted) -> Fate {
    match inserted {
        Inserted::New => Fate::Imported,
        Inserted::AlreadyThere => Fate::AlreadyThere,
    }
}

fn refused<T: Row>(row: &T, problem: impl Into<String>) -> StoreError {
    StoreError::Invalid { noun: T::NOUN, id: row.name(), problem: problem.into() }
}

/// The row that cannot be read.
fn named(error: &StoreError) -> String {
    match error {
        StoreError::Corrupt { row, .. } => row.clone(),
        _ => "?".to_owned(),
    }
}
