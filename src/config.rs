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
/// Where the chat-completions API is, when nothing else is said.
const DEFAULT_OPENAI_BASE_URL: &str = "https://api.openai.com/v1";
/// Secrets the Messages API may be asked with. The first that is set counts, as for the Claude Code CLI.
const ANTHROPIC_CREDENTIALS: [(&str, Scheme); 3] = [
    ("ANTHROPIC_AUTH_TOKEN", Scheme::Bearer),
    ("ANTHROPIC_API_KEY", Scheme::ApiKey),
    ("CLAUDE_CODE_OAUTH_TOKEN", Scheme::OAuth),
];

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

/// Where model traffic goes.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// The Messages API; paths begin with `/v1/`.
    pub anthropic: Upstream,
    /// A chat-completions API; its version belongs to the address.
    pub openai: Upstream,
}

/// A model's API: its address without a `/` at the end, and what it is asked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub base_url: String,
    pub credential: Option<Credential>,
}

/// A secret. It leaves this struct only into a request header.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Where it comes from.
    pub setting: &'static str,
    pub scheme: Scheme,
    pub secret: String,
}

/// How a secret goes into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `x-api-key`
    ApiKey,
    /// `Authorization: Bearer`
    Bearer,
    /// The same, and the beta that lets the Messages API take a subscription's token.
    OAuth,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({})", self.setting)
    }
}

impl GatewaySettings {
    /// What must be set before this provider can reach its model; `None` when nothing is missing.
    pub fn missing(&self, provider: &str) -> Option<&'static str> {
        let Upstream { base_url, credential } = if provider == "openai" { &self.openai } else { &self.anthropic };
        match (provider, credential) {
            ("anthropic" | "claude", None) => Some("ANTHROPIC_API_KEY"),
            // A server of one's own may need none.
            ("openai", None) if base_url == DEFAULT_OPENAI_BASE_URL => Some("OPENAI_API_KEY or OPENAI_BASE_URL"),
            _ => None,
        }
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

    /// The first of some secrets that is set.
    fn credential(&self, kinds: &[(&'static str, Scheme)]) -> Result<Option<Credential>> {
        let found = kinds.iter().find_map(|(setting, scheme)| Some((*setting, *scheme, self.get(setting)?)));
        let Some((setting, scheme, secret)) = found else { return Ok(None) };
        let secret = secret.trim().to_owned();
        if !secret.bytes().all(|b| b.is_ascii_graphic()) {
            bail!("{setting}: it has a blank or a character that no key has");
        }
        Ok(Some(Credential { setting, scheme, secret }))
    }

    /// An API's address, without a `/` at its end.
    fn base_url(&self, name: &str, default: &str) -> Result<String> {
        let url = self.get(name).unwrap_or_else(|| default.to_owned());
        let url = url.trim().trim_end_matches('/');
        let place = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        // It is shown in logs: no password.
        match place {
            Some(place) if !place.contains(['@', '?', '#', ' ']) && !place.is_empty() => Ok(url.to_owned()),
            Some(_) => bail!("{name}: allowed is an address with neither a user, a query nor a blank"),
            None => bail!("{name}={url:?}: allowed is an http:// or https:// address"),
        }
    }
}

impl Settings {
    /// Reads and checks everything.
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
            ("ANTHROPIC_BASE_URL", gateway.anthropic.base_url == new.gateway.anthropic.base_url),
            ("OPENAI_BASE_URL", gateway.openai.base_url == new.gateway.openai.base_url),
        ];
        let mut changed: Vec<_> = same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect();
        let upstreams = |g: &GatewaySettings| [g.anthropic.credential.clone(), g.openai.credential.clone()];
        for (old, new) in upstreams(gateway).into_iter().zip(upstreams(&new.gateway)).filter(|(old, new)| old != new) {
            changed.extend(new.or(old).map(|credential| credential.setting));
        }
        let ContainerSettings { docker, runner, shared, .. } = containers.clone();
        let containers = ContainerSettings { docker, runner, shared, ..new.containers };
        (Settings { log: new.log, containers, ..self.clone() }, changed)
    }

    fn from_raw(raw: &Raw) -> Result<Settings> {
        let mut openai = raw.base_url("OPENAI_BASE_URL", DEFAULT_OPENAI_BASE_URL)?;
        if openai.matches('/').count() == 2 {
            openai.push_str("/v1"); // a bare server, such as Ollama's
        }
        let gateway = GatewaySettings {
            anthropic: Upstream {
                base_url: raw.base_url("ANTHROPIC_BASE_URL", DEFAULT_ANTHROPIC_BASE_URL)?,
                credential: raw.credential(&ANTHROPIC_CREDENTIALS)?,
            },
            openai: Upstream { base_url: openai, credential: raw.credential(&[("OPENAI_API_KEY", Scheme::Bearer)])? },
        };
        let provider = match raw.get("NANOCLAW_PROVIDER") {
            None => {
                ["anthropic", "openai"].into_iter().find(|p| gateway.missing(p).is_none()).unwrap_or("demo").to_owned()
            }
            Some(name) if PROVIDERS.contains(&name.as_str()) => name,
            Some(name) => bail!("NANOCLAW_PROVIDER={name:?}: allowed is one of {}", PROVIDERS.join(", ")),
        };
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
            gateway,
        })
    }
}

/// Providers the runner has.
pub const PROVIDERS: [&str; 4] = ["anthropic", "openai", "claude", "demo"];

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
            Err(_) => bail!(
                "TZ={name:?}: allowed is an IANA name such as Europe/Berlin, or UTC (`apt install tzdata`, where none is known)"
            ),
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
        assert_eq!(with_key.gateway.anthropic.credential.unwrap().secret, "sk-1");
        assert_eq!(load("ANTHROPIC_API_KEY=x\nNANOCLAW_PROVIDER=demo").unwrap().agents.provider, "demo");
        for (line, provider) in [
            ("ANTHROPIC_AUTH_TOKEN=t", "anthropic"),
            ("CLAUDE_CODE_OAUTH_TOKEN=t", "anthropic"),
            ("OPENAI_API_KEY=k", "openai"),
            ("OPENAI_BASE_URL=http://192.168.1.2:11434", "openai"),
            ("OPENAI_API_KEY=k\nANTHROPIC_API_KEY=k", "anthropic"),
            ("ANTHROPIC_BASE_URL=http://proxy", "demo"),
        ] {
            assert_eq!(load(line).unwrap().agents.provider, provider, "{line}");
        }
    }

    #[test]
    fn of_several_credentials_one_counts_and_blanks_around_it_do_not() {
        let credential = |file: &str| load(file).unwrap().gateway.anthropic.credential.unwrap();
        let both = credential("ANTHROPIC_API_KEY=k\nCLAUDE_CODE_OAUTH_TOKEN=o\nANTHROPIC_AUTH_TOKEN=' t '");
        assert_eq!((both.setting, both.scheme, both.secret.as_str()), ("ANTHROPIC_AUTH_TOKEN", Scheme::Bearer, "t"));
        assert_eq!(credential("ANTHROPIC_API_KEY=k\nCLAUDE_CODE_OAUTH_TOKEN=o").scheme, Scheme::ApiKey);
        assert_eq!(credential("CLAUDE_CODE_OAUTH_TOKEN=o").scheme, Scheme::OAuth);
        let error = load("OPENAI_API_KEY='sk two'").unwrap_err().to_string();
        assert!(error.contains("OPENAI_API_KEY") && !error.contains("sk two"), "{error}");
    }

    #[test]
    fn a_chat_completions_server_is_named_with_its_version_or_without() {
        for (given, base) in [
            ("", "https://api.openai.com/v1"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
            ("http://localhost:11434/", "http://localhost:11434/v1"),
            ("http://localhost:11434/v1/", "http://localhost:11434/v1"),
            ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
            ("https://example.com/v1beta/openai/", "https://example.com/v1beta/openai"),
        ] {
            assert_eq!(load(&format!("OPENAI_BASE_URL={given}")).unwrap().gateway.openai.base_url, base);
        }
        let error = load("OPENAI_BASE_URL=http://me:secret@host").unwrap_err().to_string();
        assert!(error.contains("OPENAI_BASE_URL") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_the_variable_the_value_and_what_is_allowed() {
        for (line, allowed) in [
            ("MAX_CONCURRENT_CONTAINERS=0", "from 1 to 1000"),
            ("CONTAINER_IDLE_SECONDS=soon", "from 1 to 86400"),
            ("CONTAINER_MEMORY=512", "such as 512m"),
            ("CONTAINER_MEMORY=1m", "at least 32m"),
            ("NANOCLAW_PROVIDER=gpt", "anthropic, openai, claude, demo"),
            ("NANOCLAW_LOG=loud", "debug"),
            ("TZ=Mars/Olympus", "Europe/Berlin"),
            ("ANTHROPIC_BASE_URL=api.example.com", "https://"),
            ("OPENAI_BASE_URL=localhost:11434", "https://"),
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
        assert_eq!((after.agents.timezone.as_str(), after.gateway.anthropic.credential), ("UTC", None));
    }

    #[test]
    fn a_broken_line_is_named_by_number_and_not_shown() {
        let error = load("A=1\nsk-secret-without-name\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("sk-secret"), "{error}");
    }

    #[test]
    fn no_secret_is_in_debug_output_and_children_inherit_none() {
        let names = ANTHROPIC_CREDENTIALS.iter().map(|(name, _)| *name).chain(["OPENAI_API_KEY"]);
        for name in names {
            let settings = load(&format!("{name}=sk-very-secret")).unwrap();
            let debug = format!("{settings:?}");
            assert!(debug.contains(name) && !debug.contains("sk-very-secret"), "{debug}");
            assert!(crate::process::SECRETS.contains(&name), "{name}");
        }
    }

    #[test]
    fn comments_and_quotes() {
        let s = load("ASSISTANT_NAME=\"Ann # B\"\nNANOCLAW_MODEL=m1 # the big one\nTZ=Europe/Berlin").unwrap();
        assert_eq!(s.agents.assistant_name, "Ann # B");
        assert_eq!(s.agents.model.as_deref(), Some("m1"));
        assert_eq!(s.agents.timezone, "Europe/Berlin");
    }
}
