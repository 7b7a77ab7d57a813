//! The rows of the old database, taken into the store one by one. Runs inside the caller's one
//! transaction.
//!
//! A broken row is written down and the next one is looked at, so that one run names them all; the
//! caller rolls back when there are any. What is only waiting or remembered (questions,
//! approvals, known direct chats, the audit) is dropped with a reason instead: it must not hold up
//! a move.

use std::collections::HashMap;

use jiff::Timestamp;

use super::report::{Account, Fate, Report};
use crate::config::PROVIDERS;
use crate::setup::local_owner;
use crate::store::{
    AgentGroup, Approval, ChannelApproval, ContainerConfig, ContainerStatus, Destination, DroppedSender, EngageMode,
    Ensured, Inserted, LegacyDb, MessagingGroup, Question, Result, Row, SenderApproval, Session, Store, StoreError,
    Target, User, UserDm, Wiring,
};
use nanoclaw_session::layout::folder_name;
use nanoclaw_session::row::DestinationType;

/// Longest id of a session; it names a folder. bytes
const MAX_SESSION_ID_BYTES: usize = 100;

/// What came over.
#[derive(Debug, Default)]
pub struct Taken {
    pub report: Report,
    pub groups: Vec<AgentGroup>,
    pub sessions: Vec<Session>,
}

struct Rows<'a> {
    source: &'a LegacyDb,
    store: &'a Store,
    taken: Taken,
    /// Ids of chats in the source, and what they are called in the home.
    chats: HashMap<String, String>,
}

/// Takes over every row of `source`. The report accounts for all of them.
/// Errors are faults of the databases themselves; those of rows are in the accounts.
pub fn take(source: &LegacyDb, store: &Store, now: Timestamp) -> Result<Taken> {
    let mut rows = Rows { source, store, taken: Taken::default(), chats: HashMap::new() };
    rows.groups_and_chats()?;
    rows.people(now)?;
    rows.wirings()?;
    rows.container_configs()?;
    rows.sessions()?;
    rows.waiting()?;
    rows.the_rest()?;
    Ok(rows.taken)
}

impl Rows<'_> {
    fn groups_and_chats(&mut self) -> Result<()> {
        self.each(Fate::Refused, |rows, group: AgentGroup| {
            if let Some(other) = rows.store.find_agent_group_by_folder(&group.folder)? {
                return Err(refused(&group, format!("its folder `{}` belongs to `{}` here", group.folder, other.id)));
            }
            rows.store.create_agent_group(&group)?;
            rows.note_provider(&group.name, group.agent_provider.as_deref());
            rows.taken.groups.push(group);
            Ok(Fate::Imported)
        })?;
        self.each(Fate::Refused, |rows, chat: MessagingGroup| {
            let ensured = rows.store.ensure_messaging_group(&chat)?;
            let fate = ensured_fate(&ensured);
            rows.chats.insert(chat.id, ensured.into_inner().id);
            Ok(fate)
        })?;
        Ok(())
    }

    /// Users, what they may do, and where they are reached. The person at this terminal owns the
    /// home as in any other.
    fn people(&mut self, now: Timestamp) -> Result<()> {
        let store = self.store;
        let (local, owner) = local_owner(now);
        let account = self.each(Fate::Refused, |rows, user: User| {
            if rows.store.find_user(&user.id)?.is_some() {
                return Ok(Fate::AlreadyThere);
            }
            rows.store.create_user(&user)?;
            Ok(Fate::Imported)
        })?;
        if store.find_user(&local.id)?.is_none() {
            store.create_user(&local)?;
            account.added += 1;
        }
        let account = self.each(Fate::Refused, |rows, grant| rows.store.grant_role(&grant).map(inserted_fate))?;
        if store.grant_role(&owner)? == Inserted::New {
            account.added += 1;
        }
        self.each(Fate::Refused, |rows, member| rows.store.add_member(&member).map(inserted_fate))?;
        self.each(Fate::Dropped, |rows, mut dm: UserDm| {
            if rows.store.find_user_dm(&dm.user_id, &dm.channel_type)?.is_some() {
                return Ok(Fate::AlreadyThere);
            }
            dm.messaging_group_id = rows.chat(dm.messaging_group_id);
            rows.adopt(&dm)
        })?;
        Ok(())
    }

    fn wirings(&mut self) -> Result<()> {
        // Without the table an agent may write to whom it hears; with it, a missing row is a refusal.
        let has_grants = self.source.has_column(Destination::TABLE, "local_name")?;
        let mut granted = 0;
        self.each(Fate::Refused, |rows, mut wiring: Wiring| {
            wiring.messaging_group_id = rows.chat(wiring.messaging_group_id);
            if wiring.engage_mode == EngageMode::Pattern && wiring.engage_pattern.as_deref().unwrap_or("").is_empty() {
                wiring.engage_pattern = Some(".".to_owned());
            }
            if has_grants {
                return rows.adopt(&wiring);
            }
            if let Ensured::Created(_) = rows.store.create_wiring(&wiring)? {
                granted += 1;
            }
            Ok(Fate::Imported)
        })?;
        let account = self.each(Fate::Refused, |rows, row: Destination| {
            let agent = &row.agent_group_id;
            let chat = rows.chat(row.target_id.clone());
            let target = match row.target_type {
                DestinationType::Channel => Target::Channel(&chat),
                DestinationType::Agent => Target::Agent(&row.target_id),
            };
            let ours = match rows.store.grant_destination(agent, &row.local_name, target, row.created_at) {
                // A name that was legal there and is not here.
                Err(StoreError::Invalid { noun: Destination::NOUN, .. }) => {
                    let name = rows.store.free_local_name(agent, &row.local_name, "chat")?;
                    rows.note(format!("`{agent}` knows `{}` as `{name}` now", row.local_name));
                    rows.store.grant_destination(agent, &name, target, row.created_at)?
                }
                granted => granted?,
            };
            Ok(ensured_fate(&ours))
        })?;
        account.added += granted;
        Ok(())
    }

    fn container_configs(&mut self) -> Result<()> {
        let has_scope = self.source.has_column(ContainerConfig::TABLE, "cli_scope")?;
        let groups = self.taken.groups.len() as u64;
        let account = self.each(Fate::Refused, |rows, mut config: ContainerConfig| {
            rows.require_group(&config, &config.agent_group_id)?;
            if !has_scope {
                config.cli_scope = rows.store.container_config(&config.agent_group_id)?.cli_scope;
            }
            rows.note_provider(&config.agent_group_id, config.provider.as_deref());
            if !config.additional_mounts.is_empty() {
                let id = &config.agent_group_id;
                rows.note(format!("`{id}` has additional mounts; the mount allow-list decides about them"));
            }
            rows.store.put_container_config(&config)?;
            Ok(Fate::Imported)
        })?;
        account.added = groups.saturating_sub(account.imported + account.refused);
        Ok(())
    }

    fn sessions(&mut self) -> Result<()> {
        self.each(Fate::Refused, |rows, mut session: Session| {
            let id = &session.id;
            if folder_name(id) != *id || id.len() > MAX_SESSION_ID_BYTES || id.starts_with('-') {
                return Err(refused(&session, "its id cannot name a folder".to_owned()));
            }
            rows.require_group(&session, &session.agent_group_id)?;
            session.messaging_group_id = session.messaging_group_id.map(|chat| rows.chat(chat));
            // Its container, if there is one, is the old install's.
            session.container_status = ContainerStatus::Stopped;
            rows.adopt(&session)?;
            rows.taken.sessions.push(session);
            Ok(Fate::Imported)
        })?;
        Ok(())
    }

    /// What waits for a person, and the audit.
    fn waiting(&mut self) -> Result<()> {
        self.each(Fate::Dropped, |rows, question: Question| rows.adopt(&question))?;
        self.each(Fate::Dropped, |rows, approval: Approval| rows.adopt(&approval))?;
        self.each(Fate::Dropped, |rows, mut approval: SenderApproval| {
            approval.messaging_group_id = rows.chat(approval.messaging_group_id);
            rows.adopt(&approval)
        })?;
        self.each(Fate::Dropped, |rows, mut approval: ChannelApproval| {
            approval.messaging_group_id = rows.chat(approval.messaging_group_id);
            rows.adopt(&approval)
        })?;
        self.each(Fate::Dropped, |rows, mut dropped: DroppedSender| {
            dropped.messaging_group_id = dropped.messaging_group_id.map(|chat| rows.chat(chat));
            rows.adopt(&dropped)
        })?;
        Ok(())
    }

    /// Tables that do not come along.
    fn the_rest(&mut self) -> Result<()> {
        for (name, count) in self.source.tables()? {
            if self.taken.report.tables.iter().any(|account| account.name == name) {
                continue;
            }
            let reason = match name.as_str() {
                "schema_version" => "the history of the old schema; the home has its own",
                "pending_credentials" => "requests for credentials; an agent that needs one asks again",
                name if name.starts_with("chat_sdk_") => "state of the old chat bridge, which is not used here",
                _ => "this version has no such table",
            };
            let mut account = Account::new(name);
            if count > 0 {
                account.enter(count.unsigned_abs(), "*", Fate::Dropped(reason.to_owned()));
            }
            self.taken.report.tables.push(account);
        }
        Ok(())
    }

    /// Puts every row of a table and accounts for it; a row that fails meets the fate `broken`.
    fn each<T: Row>(
        &mut self,
        broken: fn(String) -> Fate,
        mut put: impl FnMut(&mut Self, T) -> Result<Fate>,
    ) -> Result<&mut Account> {
        let mut account = Account::new(T::TABLE);
        for row in self.source.rows::<T>()? {
            let name = match &row {
                Ok(row) => row.name(),
                Err(StoreError::Corrupt { row, .. }) => row.clone(),
                Err(_) => "?".to_owned(),
            };
            let fate = match row.and_then(|row| put(self, row)) {
                // The database's own faults are no row's.
                Err(error @ (StoreError::Sqlite(_) | StoreError::Io(_))) => return Err(error),
                Err(error) => broken(error.to_string()),
                Ok(fate) => fate,
            };
            account.enter(1, name, fate);
        }
        let tables = &mut self.taken.report.tables;
        tables.push(account);
        Ok(tables.last_mut().expect("it was pushed"))
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

    fn require_group<T: Row>(&self, row: &T, agent_group_id: &str) -> Result<()> {
        match self.taken.groups.iter().any(|group| group.id == agent_group_id) {
            true => Ok(()),
            false => Err(refused(row, "it is of an agent group that does not come along".to_owned())),
        }
    }

    fn note(&mut self, note: String) {
        self.taken.report.notes.push(note);
    }

    fn note_provider(&mut self, whose: &str, provider: Option<&str>) {
        if let Some(provider) = provider.filter(|name| !name.is_empty() && !PROVIDERS.contains(name)) {
            let known = PROVIDERS.join(", ");
            self.note(format!(
                "`{whose}` uses the provider `{provider}`, which this nanoclaw does not have (it has {known})"
            ));
        }
    }
}

fn ensured_fate<T>(ensured: &Ensured<T>) -> Fate {
    match ensured {
        Ensured::Created(_) => Fate::Imported,
        Ensured::Existing(_) => Fate::AlreadyThere,
    }
}

fn inserted_fate(inserted: Inserted) -> Fate {
    match inserted {
        Inserted::New => Fate::Imported,
        Inserted::AlreadyThere => Fate::AlreadyThere,
    }
}

fn refused<T: Row>(row: &T, problem: String) -> StoreError {
    StoreError::Invalid { noun: T::NOUN, id: row.name(), problem }
}
