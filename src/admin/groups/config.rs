//! `nanoclaw groups config`: what the containers of an agent group are made of.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;

use crate::admin::sessions::checked_provider;
use crate::admin::{Admin, Answer, note, optional, words};
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
        let texts = [
            (self.model, &mut config.model),
            (self.effort, &mut config.effort),
            (self.image_tag, &mut config.image_tag),
            (self.assistant_name, &mut config.assistant_name),
        ];
        for (given, column) in texts {
            if let Some(text) = given {
                *column = optional(text);
            }
        }
        if let Some(provider) = self.provider {
            config.provider = checked_provider(provider)?;
        }
        if let Some(text) = self.memory {
            let sound = text.is_empty() || parse_memory(&text).is_some();
            ensure!(sound, "--memory {text:?}: allowed is a number with k, m or g, at least 32m, such as 512m");
            config.memory = optional(text);
        }
        if let Some(text) = self.cpus {
            let sound = text.is_empty() || text.parse().is_ok_and(|n: f64| n.is_finite() && n > 0.0);
            ensure!(sound, "--cpus {text:?}: allowed is a number above 0, such as 1.5");
            config.cpus = optional(text);
        }
        if let Some(text) = self.pids {
            config.pids = count("--pids", text)?;
        }
        if let Some(text) = self.max_messages_per_prompt {
            config.max_messages_per_prompt = count("--max-messages-per-prompt", text)?;
        }
        if let Some(text) = self.network {
            let mode = optional(text).map(|text| text.parse::<NetworkMode>()).transpose();
            config.network = mode.context("--network")?;
        }
        if let Some(text) = self.skills {
            config.skills = if text.is_empty() || text == "all" { Skills::All } else { Skills::Named(names(&text)) };
        }
        if let Some(text) = self.packages_apt {
            config.packages_apt = packages("--packages-apt", &text, "+.-")?;
        }
        if let Some(text) = self.packages_npm {
            config.packages_npm = packages("--packages-npm", &text, "@/._-")?;
        }
        if let Some(text) = self.mcp_servers {
            config.mcp_servers = json("--mcp-servers", &text, "an object, such as {\"name\":{\"command\":\"...\"}}")?;
        }
        if let Some(text) = self.additional_mounts {
            config.additional_mounts = json("--additional-mounts", &text, "an array")?;
        }
        config.cli_scope = self.cli_scope.unwrap_or(config.cli_scope);
        Ok(())
    }
}

fn count(flag: &str, text: String) -> Result<Option<u32>> {
    match optional(text) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => bail!("{flag} {text:?}: allowed is a whole number above 0"),
        },
    }
}

fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Package names, which become words of a shell: letters, digits and `more`, and no option.
fn packages(flag: &str, text: &str, more: &str) -> Result<Vec<String>> {
    let names = names(text);
    for name in &names {
        let sound =
            name.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c)) && !name.starts_with(['-', '.', '/']);
        ensure!(sound, "{flag}: {name:?} is no package; allowed are letters, digits and {more}");
    }
    Ok(names)
}

/// Empty text is nothing of it.
fn json<T: DeserializeOwned + Default>(flag: &str, text: &str, allowed: &str) -> Result<T> {
    if text.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_str(text).with_context(|| format!("{flag}: allowed is {allowed}, as JSON"))
}
