//! `nanoclaw groups config`: what the containers of an agent group are made of.

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;

use crate::admin::sessions::checked_provider;
use crate::admin::{Admin, Answer, note, words};
use crate::config::parse_memory;
use crate::store::{AgentGroup, CliScope, ContainerConfig, NetworkMode, Skills};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show all settings of a group; `-` is the install's default
    Get { id: String },
    /// Change some; an empty value is the install's default again
    Set {
        id: String,
        #[command(flatten)]
        flags: Box<Flags>,
    },
}

#[derive(Debug, Args, PartialEq, Default)]
pub struct Flags {
    #[arg(long)]
    provider: Option<String>,
    #[arg(long)]
    model: Option<String>,
    /// How hard the model thinks, in its provider's words
    #[arg(long)]
    effort: Option<String>,
    #[arg(long, value_name = "IMAGE")]
    image_tag: Option<String>,
    #[arg(long, value_name = "NAME")]
    assistant_name: Option<String>,
    /// How many waiting messages it is given at once
    #[arg(long, value_name = "N")]
    max_messages_per_prompt: Option<String>,
    /// `all`, or names with commas
    #[arg(long)]
    skills: Option<String>,
    /// A JSON object: name to {command, args, env}
    #[arg(long, value_name = "JSON")]
    mcp_servers: Option<String>,
    /// Debian packages, with commas
    #[arg(long, value_name = "LIST")]
    packages_apt: Option<String>,
    /// npm packages, with commas
    #[arg(long, value_name = "LIST")]
    packages_npm: Option<String>,
    /// A JSON array
    #[arg(long, value_name = "JSON")]
    additional_mounts: Option<String>,
    /// What its agent may do with this command line
    #[arg(long, value_name = "SCOPE", value_parser = words(CliScope::ALL, CliScope::as_str))]
    cli_scope: Option<CliScope>,
    /// As docker takes it, such as 512m
    #[arg(long)]
    memory: Option<String>,
    /// As docker takes it, such as 1.5
    #[arg(long)]
    cpus: Option<String>,
    /// How many processes
    #[arg(long)]
    pids: Option<String>,
    /// `none` or `bridge`
    #[arg(long)]
    network: Option<String>,
}

impl Verb {
    pub(in crate::admin) fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        match self {
            Verb::Get { id } => Ok(Answer::one(&admin.store.container_config(&admin.find::<AgentGroup>(&id)?.id)?)),
            Verb::Set { id, flags } => {
                ensure!(*flags != Flags::default(), "nothing to change: give a flag, see --help");
                let group: AgentGroup = admin.find(&id)?;
                let config = admin.store.transaction(|| -> Result<ContainerConfig> {
                    let mut config = admin.store.container_config(&group.id)?;
                    flags.apply(&mut config)?;
                    config.updated_at = admin.now;
                    admin.store.put_container_config(&config)?;
                    Ok(config)
                })?;
                note(&format!("running containers have the old ones until `nanoclaw groups restart {}`", group.folder));
                Ok(Answer::one(&config))
            }
        }
    }
}

impl Flags {
    fn apply(self, config: &mut ContainerConfig) -> Result<()> {
        if let Some(provider) = self.provider {
            config.provider = checked_provider(provider)?;
        }
        set("--model", self.model, &mut config.model, text)?;
        set("--effort", self.effort, &mut config.effort, text)?;
        set("--image-tag", self.image_tag, &mut config.image_tag, text)?;
        set("--assistant-name", self.assistant_name, &mut config.assistant_name, text)?;
        set("--max-messages-per-prompt", self.max_messages_per_prompt, &mut config.max_messages_per_prompt, count)?;
        if let Some(text) = self.skills {
            config.skills = if text.is_empty() || text == "all" { Skills::All } else { Skills::Named(names(&text)) };
        }
        let servers = |text: &str| json(text, "an object, such as {\"name\":{\"command\":\"...\"}}");
        set("--mcp-servers", self.mcp_servers, &mut config.mcp_servers, servers)?;
        set("--packages-apt", self.packages_apt, &mut config.packages_apt, |text| packages(text, "+.-"))?;
        set("--packages-npm", self.packages_npm, &mut config.packages_npm, |text| packages(text, "@/._-"))?;
        let mounts = &mut config.additional_mounts;
        set("--additional-mounts", self.additional_mounts, mounts, |text| json(text, "an array"))?;
        config.cli_scope = self.cli_scope.unwrap_or(config.cli_scope);
        set("--memory", self.memory, &mut config.memory, memory)?;
        set("--cpus", self.cpus, &mut config.cpus, cpus)?;
        set("--pids", self.pids, &mut config.pids, count)?;
        set("--network", self.network, &mut config.network, |text| Ok(Some(text.parse::<NetworkMode>()?)))
    }
}

/// Puts what a flag says into its column; empty text is the default.
fn set<T: Default>(
    flag: &str,
    given: Option<String>,
    column: &mut T,
    read: impl FnOnce(&str) -> Result<T>,
) -> Result<()> {
    if let Some(text) = given {
        *column =
            if text.is_empty() { T::default() } else { read(&text).with_context(|| format!("{flag} {text:?}"))? };
    }
    Ok(())
}

fn text(text: &str) -> Result<Option<String>> {
    Ok(Some(text.to_owned()))
}

fn memory(size: &str) -> Result<Option<String>> {
    ensure!(parse_memory(size).is_some(), "allowed is a number with k, m or g, at least 32m, such as 512m");
    text(size)
}

fn cpus(share: &str) -> Result<Option<String>> {
    let sound = share.parse().is_ok_and(|n: f64| n.is_finite() && n > 0.0);
    ensure!(sound, "allowed is a number above 0, such as 1.5");
    text(share)
}

fn count(text: &str) -> Result<Option<u32>> {
    let number = text.parse().ok().filter(|n| *n > 0);
    number.map(Some).context("allowed is a whole number above 0")
}

fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Package names, which become words of a shell: letters, digits and `more`, and no option.
fn packages(text: &str, more: &str) -> Result<Vec<String>> {
    let names = names(text);
    for name in &names {
        let sound =
            name.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c)) && !name.starts_with(['-', '.', '/']);
        ensure!(sound, "{name:?} is no package; allowed are letters, digits and {more}");
    }
    Ok(names)
}

fn json<T: DeserializeOwned>(text: &str, allowed: &str) -> Result<T> {
    serde_json::from_str(text).with_context(|| format!("allowed is {allowed}, as JSON"))
}
