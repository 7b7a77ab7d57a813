//! Settings: read raw from the environment and `<home>/.env`, checked once, handed to each
//! component in its own struct. A wrong value is an error that names the variable, the value
//! and what is allowed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::tz::TimeZone;
use log::LevelFilter;

use crate::home::Home;

/// Where the Messages API is, when nothing else is said.
const DEFAULT_ANTHROPIC_BASE_URL: &str = "https://api.anthropic.com";

/// Everything a user can set, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub log: LogSettings,
    pub agents: AgentSettings,
    pub containers: ContainerSettings,
    pub gateway: GatewaySettings,
}

/// What is logged and how (`NANOCLAW_LOG`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LevelFilter,
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Defaults for agents that say nothing else.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    pub assistant_name: String,
    pub provider: String,
    pub model: Option<String>,
    pub max_messages_per_prompt: u32,
    /// An IANA name.
    pub timezone: String,
}

/// How containers run.
#[derive(Debug, Clone)]
pub struct ContainerSettings {
    /// The docker-compatible CLI.
    pub docker: String,
    pub image: String,
    pub max_concurrent: usize,
    /// As docker takes it: `512m`.
    pub memory: String,
    /// What is left free for everything else; another container waits for it. 0 = do not look. bytes
    pub memory_reserve: u64,
    pub idle: Duration,
    /// The static runner binary on this machine.
    pub runner: PathBuf,
    /// `skills/` and `CLAUDE.md` that every agent gets.
    pub shared: PathBuf,
}

/// Where model traffic goes and with which key. The key leaves this struct only into a request
/// header.
#[derive(Clone)]
pub struct GatewaySettings {
    pub anthropic_base_url: String,
    pub anthropic_api_key: Option<String>,
}

impl std::fmt::Debug for GatewaySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = if self.anthropic_api_key.is_some() { "set" } else { "absent" };
        write!(f, "GatewaySettings {{ anthropic_base_url: {:?}, anthropic_api_key: {key} }}", self.anthropic_base_url)
    }
}

/// Raw settings: the environment first, then the file.
#[derive(Debug)]
struct Raw {
    file: BTreeMap<String, String>,
    environment: fn(&str) -> Option<String>,
}

impl Raw {
    /// A set, non-empty value.
    fn get(&self, name: &str) -> Option<String> {
        (self.environment)(name).or_else(|| self.file.get(name).cloned()).filter(|v| !v.trim().is_empty())
    }

    fn number(&self, name: &str, default: u64, allowed: std::ops::RangeInclusive<u64>) -> Result<u64> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match text.trim().parse() {
            Ok(n) if allowed.contains(&n) => Ok(n),
            _ => bail!("{name}={text:?}: allowed is a number from {} to {}", allowed.start(), allowed.end()),
        }
    }
}

impl Settings {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// The first wrong value, named; or `.env` cannot be read.
    pub fn load(home: &Home) -> Result<Settings> {
        Settings::from_raw(&Raw {
            file: read_env_file(&home.env_file())?,
            environment: |name| std::env::var(name).ok(),
        })
    }

    /// These settings with what may change while the host runs taken from `new`: `NANOCLAW_LOG`,
    /// `MAX_CONCURRENT_CONTAINERS` and `CONTAINER_*`. And the variables that changed beside.
    pub fn reloaded(&self, new: Settings) -> (Settings, Vec<&'static str>) {
        let (agents, containers, gateway) = (&self.agents, &self.containers, &self.gateway);
        let same = [
            ("ASSISTANT_NAME", agents.assistant_name == new.agents.assistant_name),
            ("NANOCLAW_PROVIDER", agents.provider == new.agents.provider),
            ("NANOCLAW_MODEL", agents.model == new.agents.model),
            ("MAX_MESSAGES_PER_PROMPT", agents.max_messages_per_prompt == new.agents.max_messages_per_prompt),
            ("TZ", agents.timezone == new.agents.timezone),
            ("DOCKER", containers.docker == new.containers.docker),
            ("NANOCLAW_RUNNER", containers.runner == new.containers.runner),
            ("NANOCLAW_SHARED", containers.shared == new.containers.shared),
            ("ANTHROPIC_BASE_URL", gateway.anthropic_base_url == new.gateway.anthropic_base_url),
            ("ANTHROPIC_API_KEY", gateway.anthropic_api_key == new.gateway.anthropic_api_key),
        ];
        let changed = same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect();
        let ContainerSettings { docker, runner, shared, .. } = containers.clone();
        let containers = ContainerSettings { docker, runner, shared, ..new.containers };
        (Settings { log: new.log, containers, ..self.clone() }, changed)
    }

    fn from_raw(raw: &Raw) -> Result<Settings> {
        let key = raw.get("ANTHROPIC_API_KEY");
        let provider = match raw.get("NANOCLAW_PROVIDER") {
            None if key.is_some() => "anthropic".to_owned(),
            None => "demo".to_owned(),
            Some(name) if PROVIDERS.contains(&name.as_str()) => name,
            Some(name) => bail!("NANOCLAW_PROVIDER={name:?}: allowed is one of {}", PROVIDERS.join(", ")),
        };
        let base_url = raw.get("ANTHROPIC_BASE_URL").unwrap_or_else(|| DEFAULT_ANTHROPIC_BASE_URL.to_owned());
        if !(base_url.starts_with("http://") || base_url.starts_with("https://")) {
            bail!("ANTHROPIC_BASE_URL={base_url:?}: allowed is an http:// or https:// address");
        }
        let memory = raw.get("CONTAINER_MEMORY").unwrap_or_else(|| "512m".to_owned());
        if parse_memory(&memory).is_none() {
            bail!("CONTAINER_MEMORY={memory:?}: allowed is a number with k, m or g, at least 32m, such as 512m");
        }
        Ok(Settings {
            log: parse_log(&raw.get("NANOCLAW_LOG").unwrap_or_default())?,
            agents: AgentSettings {
                assistant_name: raw.get("ASSISTANT_NAME").unwrap_or_else(|| "Claw".to_owned()),
                provider,
                model: raw.get("NANOCLAW_MODEL"),
                max_messages_per_prompt: u32::try_from(raw.number("MAX_MESSAGES_PER_PROMPT", 10, 1..=1_000)?)?,
                timezone: timezone(raw)?,
            },
            containers: ContainerSettings {
                docker: raw.get("DOCKER").unwrap_or_else(|| "docker".to_owned()),
                image: raw.get("CONTAINER_IMAGE").unwrap_or_else(|| "nanoclaw-agent:latest".to_owned()),
                max_concurrent: usize::try_from(raw.number("MAX_CONCURRENT_CONTAINERS", 5, 1..=1_000)?)?,
                memory,
                memory_reserve: raw.number("CONTAINER_MEMORY_RESERVE", 64, 0..=1 << 20)? << 20,
                idle: Duration::from_secs(raw.number("CONTAINER_IDLE_SECONDS", 300, 1..=86_400)?),
                runner: find_file(raw, "NANOCLAW_RUNNER", &["nanoclaw-runner", "../libexec/nanoclaw/nanoclaw-runner"])?,
                shared: find_file(raw, "NANOCLAW_SHARED", &["../share/nanoclaw", "../../container"])?,
            },
            gateway: GatewaySettings {
                anthropic_base_url: base_url.trim_end_matches('/').to_owned(),
                anthropic_api_key: key,
            },
        })
    }
}

/// Providers the runner has.
pub const PROVIDERS: [&str; 2] = ["anthropic", "demo"];

/// Reads `NAME=value` lines: blank lines and `#` comments are skipped, `export ` is allowed, and
/// a value may be quoted.
fn read_env_file(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut values = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.trim_start_matches("export ").split_once('=') else {
            // The line itself may be a secret.
            bail!("{}, line {}: expected NAME=value", path.display(), number + 1);
        };
        values.insert(name.trim().to_owned(), unquoted(value.trim()).to_owned());
    }
    Ok(values)
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
            return inner;
        }
    }
    // `NAME=value # why`
    value.split_once(" #").map_or(value, |(v, _)| v.trim_end())
}

fn parse_log(text: &str) -> Result<LogSettings> {
    let mut settings = LogSettings { level: LevelFilter::Info, format: LogFormat::Text };
    for word in text.split([',', ' ']).filter(|w| !w.is_empty()) {
        match word {
            "json" => settings.format = LogFormat::Json,
            "error" => settings.level = LevelFilter::Error,
            "warn" => settings.level = LevelFilter::Warn,
            "info" => settings.level = LevelFilter::Info,
            "debug" => settings.level = LevelFilter::Debug,
            other => bail!("NANOCLAW_LOG={other:?}: allowed are error, warn, info, debug, and json"),
        }
    }
    Ok(settings)
}

fn timezone(raw: &Raw) -> Result<String> {
    match raw.get("TZ") {
        Some(name) => match TimeZone::get(name.trim_start_matches(':')) {
            Ok(zone) => Ok(zone.iana_name().unwrap_or("UTC").to_owned()),
            Err(_) => bail!("TZ={name:?}: allowed is an IANA name such as Europe/Berlin, or UTC"),
        },
        None => {
            Ok(TimeZone::try_system().ok().and_then(|z| z.iana_name().map(str::to_owned)).unwrap_or("UTC".to_owned()))
        }
    }
}

/// A memory size as docker takes it, in bytes; `None` below 32 MiB or when it is no size.
pub fn parse_memory(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let factor: u64 = match unit {
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|bytes| *bytes >= 32 << 20)
}

/// A file that was installed with us: the setting, else the first of `places` beside our own
/// executable that exists, else the first of them (and `doctor` says that it is missing).
fn find_file(raw: &Raw, setting: &str, places: &[&str]) -> Result<PathBuf> {
    if let Some(path) = raw.get(setting) {
        return Ok(std::path::absolute(path)?);
    }
    let executable = std::env::current_exe().context("cannot find our own executable")?;
    let folder = executable.parent().unwrap_or(Path::new("/"));
    let candidates = || places.iter().map(|p| folder.join(p));
    let found = candidates().find_map(|p| p.canonicalize().ok());
    Ok(found.or_else(|| candidates().next()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str) -> Result<Settings> {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join(".env");
        fs::write(&path, file).unwrap();
        Settings::from_raw(&Raw { file: read_env_file(&path)?, environment: |_| None })
    }

    #[test]
    fn the_provider_follows_the_key() {
        assert_eq!(load("").unwrap().agents.provider, "demo");
        let with_key = load("export ANTHROPIC_API_KEY='sk-1'  \n# NANOCLAW_PROVIDER=demo\n").unwrap();
        assert_eq!(with_key.agents.provider, "anthropic");
        assert_eq!(with_key.gateway.anthropic_api_key.as_deref(), Some("sk-1"));
        assert_eq!(load("ANTHROPIC_API_KEY=x\nNANOCLAW_PROVIDER=demo").unwrap().agents.provider, "demo");
    }

    #[test]
    fn a_wrong_value_names_the_variable_the_value_and_what_is_allowed() {
        for (line, allowed) in [
            ("MAX_CONCURRENT_CONTAINERS=0", "from 1 to 1000"),
            ("CONTAINER_IDLE_SECONDS=soon", "from 1 to 86400"),
            ("CONTAINER_MEMORY=512", "such as 512m"),
            ("CONTAINER_MEMORY=1m", "at least 32m"),
            ("NANOCLAW_PROVIDER=gpt", "anthropic, demo"),
            ("NANOCLAW_LOG=loud", "debug"),
            ("TZ=Mars/Olympus", "Europe/Berlin"),
            ("ANTHROPIC_BASE_URL=api.example.com", "https://"),
        ] {
            let (name, value) = line.split_once('=').unwrap();
            let error = load(line).unwrap_err().to_string();
            for part in [name, value, allowed] {
                assert!(error.contains(part), "{line}: {error}");
            }
        }
    }

    #[test]
    fn what_cannot_change_while_running_is_named() {
        let before = load("CONTAINER_MEMORY=64m\nTZ=UTC").unwrap();
        let changes = "NANOCLAW_LOG=debug\nMAX_CONCURRENT_CONTAINERS=9\nCONTAINER_MEMORY=1g\nCONTAINER_IDLE_SECONDS=7\n\
                       CONTAINER_IMAGE=other\nTZ=Europe/Berlin\nANTHROPIC_API_KEY=k\nDOCKER=podman";
        let (after, left) = before.reloaded(load(changes).unwrap());
        assert_eq!(left, ["NANOCLAW_PROVIDER", "TZ", "DOCKER", "ANTHROPIC_API_KEY"]);
        let ContainerSettings { docker, image, max_concurrent, memory, idle, .. } = after.containers;
        assert_eq!((docker.as_str(), image.as_str(), memory.as_str()), ("docker", "other", "1g"));
        assert_eq!((max_concurrent, idle.as_secs(), after.log.level), (9, 7, LevelFilter::Debug));
        assert_eq!((after.agents.timezone.as_str(), after.gateway.anthropic_api_key), ("UTC", None));
    }

    #[test]
    fn a_broken_line_is_named_by_number_and_not_shown() {
        let error = load("A=1\nsk-secret-without-name\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("sk-secret"), "{error}");
    }

    #[test]
    fn the_key_is_not_in_debug_output() {
        let settings = load("ANTHROPIC_API_KEY=sk-very-secret").unwrap();
        assert!(!format!("{settings:?}").contains("sk-very-secret"));
    }

    #[test]
    fn comments_and_quotes() {
        let s = load("ASSISTANT_NAME=\"Ann # B\"\nNANOCLAW_MODEL=m1 # the big one\nTZ=Europe/Berlin").unwrap();
        assert_eq!(s.agents.assistant_name, "Ann # B");
        assert_eq!(s.agents.model.as_deref(), Some("m1"));
        assert_eq!(s.agents.timezone, "Europe/Berlin");
    }
}
